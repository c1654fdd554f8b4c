// From a plan, a workload and goals to the numbers that engines are set by. What each engine calls them: engine_advice.h.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/planner/plan.h"

namespace stem::planner {

struct AdviceOptions {
  std::string workload = "chat";  // a word of topics.json
  std::string model = "MODEL";    // as the engine's command names it: a path or a hub's name
  PlanOptions plan;               // contexts: typical, p95, longest; none = the workload's. concurrency 0 = the workload's
  bool kv_given = false;          // else the model's own type, or fp8 when only that holds the requests
  bool tensor_given = false;      // else the fewest GPUs that hold the requests
  bool cpu = false;               // the engine computes on CPUs
  double ttft_goal_s = 0;         // for a prompt of the typical length that nothing is known of; 0 = none
  std::optional<double> hit_rate;  // of prompt tokens, with where it comes from; else the workload's assumption
  std::string hit_source;
  std::string node = "unix:///run/stemcache/node.sock";
};

struct Advice {
  AdviceOptions options;
  Plan plan;
  std::string workload_what;
  std::map<std::string, std::string> figures;  // by name: what texts and settings are filled with
  std::set<std::string> conditions;            // gpu or cpu, tiers, connector, parallel, pipeline
  std::vector<std::string> notes;              // what was chosen and why, what misses a goal
};

std::vector<std::string> WorkloadNames();

// Errors: InvalidArgument names the option.
absl::StatusOr<Advice> MakeAdvice(const ModelShape& model, AdviceOptions options);

// "{name}" becomes the figure, "{{" a brace. A name that is not there stays as it is.
std::string Filled(const std::string& text, const std::map<std::string, std::string>& figures);

}  // namespace stem::planner
