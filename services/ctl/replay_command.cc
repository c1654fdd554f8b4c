// stemctl replay: a trace through real clients against a running cluster, every byte checked.
#include <cstdio>
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "services/ctl/cluster_state.h"
#include "services/ctl/commands.h"
#include "services/ctl/replay.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  ReplayOptions options;
  uint32_t block_tokens = 0;  // 0 = the trace's own
  uint32_t deadline_ms = 2000;
  std::string dir;
  std::string json;
};

absl::StatusOr<int> Run(Arguments& arguments) {
  ReplayOptions& options = arguments.options;
  if (arguments.block_tokens != 0) options.block_tokens = arguments.block_tokens;
  options.deadline = absl::Milliseconds(arguments.deadline_ms);
  if (!arguments.dir.empty()) {
    STEM_ASSIGN(const ClusterState state, ReadClusterState(arguments.dir));
    for (const ClusterMember& node : state.nodes) options.nodes.push_back(node.socket);
    options.directory = state.directory.listen;
    options.secret_file = state.secret_path();
  }
  // Progress on standard error: standard output is the report's, or the JSON document's.
  Progress progress(stderr);
  STEM_ASSIGN(const ReplayReport report, RunReplay(options, {}, &progress));
  if (arguments.json != "-") std::fputs(report.ToTable().c_str(), stdout);
  STEM_TRY(WriteJson(arguments.json, report.ToJson().dump(2)));
  return report.tally.mismatches == 0 ? kExitOk : kExitFailed;
}

}  // namespace

void AddReplayCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  ReplayOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("replay", "replay a trace against a running cluster and check every byte");
  command.add_option("trace", options.trace, "the trace's file")->required();
  CLI::Option* const dir = command.add_option("--dir", arguments->dir, "cluster started by `stemctl cluster up --dir`");
  CLI::Option* const nodes =
      command.add_option("--nodes", options.nodes, "Unix sockets of the nodes, e.g. D/node-1/node.sock")
          ->delimiter(',');
  CLI::Option* const directory = command.add_option("--directory", options.directory, "host:port, for best-match");
  CLI::Option* const secret = command.add_option("--secret-file", options.secret_file, "the cluster's, for best-match");
  for (CLI::Option* const given_by_dir : {nodes, directory, secret}) dir->excludes(given_by_dir);
  AddChoice<TraceFormat>(command, "--format", options.format,
                         {{"mooncake", TraceFormat::kMooncake}, {"bailian", TraceFormat::kBailian}, {"stem", TraceFormat::kStem}},
                         "the trace's format");
  command.add_option("--clients", options.clients, "client threads; 1 = strictly in file order")->capture_default_str();
  command.add_option("--block-tokens", arguments->block_tokens,
                     "tokens a block; default: 512 (mooncake), 16 (bailian), the header's (stem)");
  command.add_option("--bytes-per-token", options.bytes_per_token, "KV bytes of one token")->capture_default_str();
  command.add_option("--max-requests", options.requests_max, "end after this many; 0 = all")->capture_default_str();
  command.add_option("--speed", options.speed, "times the trace's pace; 0 = as fast as possible")
      ->capture_default_str();
  AddChoice<Routing>(
      command, "--routing", options.routing,
      {{"round-robin", Routing::kRoundRobin}, {"session", Routing::kSession}, {"best-match", Routing::kBestMatch}},
      "which node a request goes to");
  AddChoice<PartialBlock>(command, "--partial", options.partial,
                          {{"count", PartialBlock::kCount}, {"drop", PartialBlock::kDrop}},
                          "a prompt's last, partial block");
  command.add_option("--deadline-ms", arguments->deadline_ms, "of a request's acquire and load")->capture_default_str();
  command.add_option("--seed", options.seed, "of the publishers' ids in the payloads")->capture_default_str();
  command.add_option("--json", arguments->json, "write the report as JSON; - = standard output, instead of the table");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
