// stemctl simulate: eviction policies over a trace, no cluster.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/ctl/commands.h"
#include "services/ctl/hit_curve.h"
#include "services/ctl/simulate.h"
#include "services/runtime/config.h"
#include "storage/policy/name_table.h"

namespace stem {
namespace {

struct Arguments {
  SimulateOptions options;
  uint32_t block_tokens = 0;  // 0 = the trace's own
  std::vector<std::string> policies = {"stem", "lru"};
  std::string admission = "always";
  std::string curve;
  std::string json;
};

absl::StatusOr<int> Run(Arguments& arguments) {
  SimulateOptions& options = arguments.options;
  if (arguments.block_tokens != 0) options.block_tokens = arguments.block_tokens;
  for (const std::string& name : arguments.policies) {
    STEM_ASSIGN(const SimulatedPolicy policy, ParseSimulatedPolicy(name));
    options.policies.push_back(policy);
  }
  STEM_ASSIGN(options.admission, ParseAdmission(arguments.admission));
  const bool picture = absl::EndsWith(arguments.curve, ".svg");
  if (!arguments.curve.empty() && !picture && !absl::EndsWith(arguments.curve, ".json")) {
    return absl::InvalidArgumentError(absl::StrCat("--curve ", arguments.curve, "; must end in .svg or .json"));
  }
  if (options.capacities_blocks.empty() && arguments.curve.empty()) {
    return absl::InvalidArgumentError("--capacity-blocks or --curve is needed, e.g. --capacity-blocks 1000,10000");
  }
  Progress progress(stderr);
  nlohmann::json document = nlohmann::json::object();
  if (!options.capacities_blocks.empty()) {
    STEM_ASSIGN(const SimulateReport report, RunSimulation(options, &progress));
    if (arguments.json != "-") std::fputs(report.ToTable().c_str(), stdout);
    document = report.ToJson();
  }
  if (!arguments.curve.empty()) {
    STEM_ASSIGN(const HitCurve curve, TraceHitCurve(options, &progress));
    STEM_TRY(WriteJson(arguments.curve, picture ? curve.ToSvg() : curve.ToJson().dump(2)));
    document["curve"] = curve.ToJson();
  }
  STEM_TRY(WriteJson(arguments.json, document.dump(2)));
  return kExitOk;
}

}  // namespace

void AddSimulateCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  SimulateOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("simulate", "what eviction policies would hit on a trace, without a cluster");
  command.add_option("trace", options.trace, "the trace's file")->required();
  AddChoice<TraceFormat>(command, "--format", options.format,
                         {{"mooncake", TraceFormat::kMooncake}, {"bailian", TraceFormat::kBailian}, {"stem", TraceFormat::kStem}},
                         "the trace's format");
  command.add_option("--policy", arguments->policies, absl::StrCat(NamesOf(AllPolicies()), ", belady"))
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--capacity-blocks", options.capacities_blocks, "blocks in each node's DRAM")->delimiter(',');
  command.add_flag("--leaf-first", options.leaf_first, "no block leaves before its children, as in the node");
  command.add_option("--nodes", options.nodes, "nodes, each with that capacity")->capture_default_str();
  AddChoice<Routing>(
      command, "--routing", options.routing,
      {{"round-robin", Routing::kRoundRobin}, {"session", Routing::kSession}, {"best-match", Routing::kBestMatch}},
      "which node a request goes to");
  command.add_option("--ssd-blocks", options.ssd_blocks, "blocks on each node's SSD; 0 = no SSD tier")->capture_default_str();
  command.add_option("--admission", arguments->admission, absl::StrCat("to SSD: ", NamesOf(AllAdmissions())))->capture_default_str();
  AddChoice<PartialBlock>(command, "--partial", options.partial,
                          {{"count", PartialBlock::kCount}, {"drop", PartialBlock::kDrop}},
                          "a prompt's last, partial block");
  AddChoice<SimulatedHints>(command, "--hints", options.hints,
                            {{"none", SimulatedHints::kNone},
                             {"conversation", SimulatedHints::kConversation},
                             {"outlook", SimulatedHints::kOutlook}},
                            "what engines tell, of traces with sessions: nothing, whose request it is, or also whether more will follow");
  command.add_option("--warmup-requests", options.warmup_requests, "served first, and not counted")->capture_default_str();
  command.add_option("--max-requests", options.requests_max, "end after this many; 0 = all")->capture_default_str();
  command.add_option("--block-tokens", arguments->block_tokens, "tokens a block; default: 512 (mooncake), 16 (bailian), the header's (stem)");
  command.add_option("--threads", options.threads, "0 = one a core")->capture_default_str();
  command.add_option("--curve", arguments->curve, "write hit rate by capacity: a picture (.svg) or numbers (.json)");
  command.add_option("--json", arguments->json, "write the report as JSON; - = standard output, instead of the table");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
