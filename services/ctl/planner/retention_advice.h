// Pruning inside one sequence: what each policy keeps, saves and costs for a model and a context, with errors that were measured on a real
// model's keys and values (engines/retention.json).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/planner/plan.h"

namespace stem::planner {

struct RetentionRow {
  std::string policy, title, how, who;
  uint64_t kept_tokens = 0;
  uint64_t request_bytes = 0;
  double saved_percent = 0;
  // Of attention's output, at the share of the context nearest to this one that was measured; -1 = none was.
  double error_mean = -1, error_p95 = -1, measured_share = 0;
};

struct RetentionAdvice {
  uint64_t context_tokens = 0;
  std::string measured, warning;
  std::vector<RetentionRow> rows;

  std::string ToText() const;
  nlohmann::json ToJson() const;
};

// `keep_tokens` of the plan's longest context stay. Errors: InvalidArgument.
absl::StatusOr<RetentionAdvice> AdviseRetention(const Plan& plan, uint64_t keep_tokens);

}  // namespace stem::planner
