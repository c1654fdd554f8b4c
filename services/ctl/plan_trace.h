// What a trace says about a plan's tiers: hit rate and prefill saved at their sizes, where the next gigabyte stops paying, and with
// prices the cheapest mix of DRAM and SSD. Simulated with the node's own policies (simulate.h), all nodes as one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/planner/plan.h"
#include "services/ctl/progress.h"
#include "services/ctl/trace.h"

namespace stem {

struct PlanTraceOptions {
  std::string trace;
  TraceFormat format = TraceFormat::kMooncake;
  double goal_hit_rate = 0;  // of prompt tokens, 0..1; 0 = the mix that saves most
};

struct TierSizes {
  uint64_t dram_bytes = 0;
  uint64_t ssd_bytes = 0;
  double token_hit_rate = 0;
  double ssd_share = 0;      // of the blocks hit, from SSD
  double prefill_saved = 0;  // of all prefill work
  // With prices, a month; 0 without.
  double cost_month = 0;
  double saved_month = 0;  // GPU time that was not spent
  double net_month() const { return saved_month - cost_month; }
};

struct PlanTrace {
  std::string trace;
  std::string definition;
  uint64_t requests = 0;
  uint64_t tokens = 0;
  double seconds = 0;  // from the first request to the last
  uint32_t block_tokens = 0;
  uint64_t block_bytes = 0;
  double prefill_s = 0;  // of all prompts, on the plan's GPUs; 0 = not known
  std::optional<TierSizes> asked;  // --dram and --ssd
  std::vector<TierSizes> curve;    // DRAM alone, the last holds everything
  // The smallest of the curve with 95 % of what unlimited room saves.
  uint64_t nearly_all_bytes = 0;
  // Of DRAM, with prices: the size of the curve that saves most beyond its cost; more gigabytes save less than they cost. 0: none does.
  std::optional<uint64_t> pays_bytes;
  std::optional<TierSizes> mix;  // cheapest that reaches the goal, or best net
  bool goal_missed = false;      // no mix reaches it

  nlohmann::json ToJson() const;
  std::string ToText() const;
};

// Reads the trace several times. `progress` may be null. Errors: InvalidArgument (an option; a goal without prices), NotFound and
// DataLoss (the trace).
absl::StatusOr<PlanTrace> TracePlan(const planner::Plan& plan, const PlanTraceOptions& options, Progress* progress);

}  // namespace stem
