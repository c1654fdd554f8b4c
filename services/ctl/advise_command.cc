// stemctl advise: settings of seven engines for a model, a machine and a workload, with what each does.
#include <cstdio>
#include <memory>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/ctl/commands.h"
#include "services/ctl/plan_arguments.h"
#include "services/ctl/plan_trace.h"
#include "services/ctl/planner/advice_report.h"
#include "services/ctl/planner/engine_files.h"
#include "services/ctl/planner/retention_advice.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  PlanArguments plan;
  planner::AdviceOptions advice;
  PlanTraceOptions trace;
  std::vector<std::string> engines = planner::EngineNames();
  std::string model_path, json;
  uint64_t keep_tokens = 0;
  CLI::Option* kv = nullptr;
  CLI::Option* tensor = nullptr;
  CLI::Option* concurrency = nullptr;
};

// What tiers of these sizes, or unlimited room, hit on the trace.
absl::Status ReadHitRate(const planner::ModelShape& model, const Arguments& arguments, planner::AdviceOptions* advice) {
  if (arguments.trace.trace.empty()) return absl::OkStatus();
  STEM_ASSIGN(const planner::Plan plan, planner::MakePlan(model, arguments.plan.options));
  Progress progress(stderr);
  STEM_ASSIGN(const PlanTrace trace, TracePlan(plan, arguments.trace, &progress));
  advice->hit_rate = (trace.asked ? *trace.asked : trace.curve.back()).token_hit_rate;
  advice->hit_source = absl::StrCat("simulated on ", trace.trace, trace.asked ? " with these tiers" : " with unlimited room");
  return absl::OkStatus();
}

absl::StatusOr<int> RunAdvise(Arguments* arguments) {
  STEM_ASSIGN(const planner::ModelShape model, ReadPlanArguments(&arguments->plan));
  planner::AdviceOptions advice = arguments->advice;
  STEM_TRY(ReadHitRate(model, *arguments, &advice));
  advice.plan = arguments->plan.options;
  if (arguments->concurrency->count() == 0) advice.plan.concurrency = 0;
  advice.kv_given = arguments->kv->count() > 0;
  advice.tensor_given = arguments->tensor->count() > 0;
  advice.model = !arguments->model_path.empty() ? arguments->model_path : model.name;
  STEM_ASSIGN(const planner::Advice advised, planner::MakeAdvice(model, advice));
  std::vector<planner::EngineAdvice> engines;
  for (const std::string& name : arguments->engines) {
    STEM_ASSIGN(planner::EngineAdvice engine, planner::AdviseEngine(advised, name));
    engines.push_back(std::move(engine));
  }
  std::string text = planner::AdviceText(advised, engines);
  nlohmann::json json = planner::AdviceJson(advised, engines);
  if (arguments->keep_tokens > 0) {
    STEM_ASSIGN(const planner::RetentionAdvice retention, planner::AdviseRetention(advised.plan, arguments->keep_tokens));
    text += retention.ToText();
    json["retention"] = retention.ToJson();
  }
  if (arguments->json != "-") std::fputs(text.c_str(), stdout);
  STEM_TRY(WriteJson(arguments->json, json.dump(2)));
  return advised.plan.fits() ? kExitOk : kExitFailed;
}

}  // namespace

void AddAdviseCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("advise", "settings of seven engines for a model, a machine and a workload");
  AddModelOptions(command, arguments->plan);
  AddMachineOptions(command, arguments->plan);
  arguments->kv = command.get_option("--kv-dtype");
  arguments->tensor = command.get_option("--tensor-parallel");
  arguments->concurrency = command.get_option("--concurrency");
  command.add_option("--workload", arguments->advice.workload, absl::StrJoin(planner::WorkloadNames(), ", "))->capture_default_str();
  command.add_option("--engine", arguments->engines, absl::StrCat("of ", absl::StrJoin(planner::EngineNames(), ", "), "; default: all"))
      ->delimiter(',');
  AddChoice<bool>(command, "--device", arguments->advice.cpu, {{"gpu", false}, {"cpu", true}}, "the engine computes on");
  command.add_option("--model-path", arguments->model_path, "the model in the engine's command: a path or a hub's name");
  command.add_option("--goal-ttft", arguments->advice.ttft_goal_s, "seconds to the first token of a typical prompt; 0 = no goal")
      ->capture_default_str();
  command.add_option("--trace", arguments->trace.trace, "hit rates from it instead of the workload's assumption");
  AddChoice<TraceFormat>(
      command, "--trace-format", arguments->trace.format,
      {{"mooncake", TraceFormat::kMooncake}, {"bailian", TraceFormat::kBailian}, {"stem", TraceFormat::kStem}},
      "the trace's format");
  command.add_option("--keep-tokens", arguments->keep_tokens, "of each sequence: what pruning inside it (window, StreamingLLM, H2O) saves and costs");
  command.add_option("--node", arguments->advice.node, "socket of Stemcache's node, for the connector")->capture_default_str();
  command.add_option("--json", arguments->json, "write the advice as JSON; - = standard output, instead of the page");
  command.callback([arguments, run] { *run = [arguments] { return RunAdvise(arguments.get()); }; });
}

}  // namespace stem
