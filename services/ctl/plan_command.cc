// stemctl plan: what a model's KV takes, what fits, what tiers hold.
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/plan_arguments.h"
#include "services/ctl/plan_trace.h"
#include "services/ctl/planner/model_table.h"
#include "services/ctl/planner/plan_report.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  PlanArguments plan;
  PlanTraceOptions trace;
  std::string prices, json;
};

absl::StatusOr<int> RunPlan(Arguments* arguments) {
  STEM_ASSIGN(const planner::ModelShape model, ReadPlanArguments(&arguments->plan));
  planner::PlanOptions& options = arguments->plan.options;
  if (!arguments->prices.empty()) {
    STEM_ASSIGN(options.prices, planner::ReadPrices(arguments->prices));
  }
  STEM_ASSIGN(const planner::Plan plan, planner::MakePlan(model, options));
  nlohmann::json json = planner::PlanJson(plan);
  if (!arguments->plan.model.empty()) {
    STEM_ASSIGN(json["model"]["config"], planner::ModelConfig(arguments->plan.model));
  }
  std::string text = planner::PlanText(plan);
  if (!arguments->trace.trace.empty()) {
    Progress progress(stderr);
    STEM_ASSIGN(const PlanTrace trace, TracePlan(plan, arguments->trace, &progress));
    text += trace.ToText();
    json["trace"] = trace.ToJson();
  } else if (arguments->trace.goal_hit_rate != 0) {
    return absl::InvalidArgumentError("--goal-hit-rate needs --trace FILE: hit rates come from a trace");
  }
  if (arguments->json != "-") std::fputs(text.c_str(), stdout);
  STEM_TRY(WriteJson(arguments->json, json.dump(2)));
  return plan.fits() ? kExitOk : kExitFailed;
}

}  // namespace

void AddPlanCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("plan", "KV memory of a model: what it takes, what fits, what tiers hold");
  AddModelOptions(command, arguments->plan);
  AddMachineOptions(command, arguments->plan);
  command.add_option("--prices", arguments->prices, "JSON file: gpu_hour, dram_gb_month, ssd_gb_month");
  command.add_option("--trace", arguments->trace.trace, "what these sizes would hit on it, and where more stops paying");
  AddChoice<TraceFormat>(
      command, "--trace-format", arguments->trace.format,
      {{"mooncake", TraceFormat::kMooncake}, {"bailian", TraceFormat::kBailian}, {"stem", TraceFormat::kStem}},
      "the trace's format");
  command.add_option("--goal-hit-rate", arguments->trace.goal_hit_rate, "of prompt tokens: the cheapest mix that reaches it");
  command.add_option("--hits-per-day", arguments->plan.options.hits_per_day, "times a kept token saves its prefill")
      ->capture_default_str();
  command.add_option("--json", arguments->json, "write the plan as JSON; - = standard output, without the report");
  command.callback([arguments, run] { *run = [arguments] { return RunPlan(arguments.get()); }; });
}

}  // namespace stem
