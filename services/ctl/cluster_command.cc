// stemctl cluster up|down|status: a local cluster of real processes.
#include <memory>
#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/cluster.h"
#include "services/ctl/commands.h"
#include "services/ctl/status.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

constexpr uint64_t kDramBytesMin = 1 << 20;
constexpr uint64_t kBytesMax = 1ULL << 50;

struct Arguments {
  ClusterUpOptions up;
  bool resume = false;
  std::string json;
};

nlohmann::json ToJson(const ClusterState& state) {
  nlohmann::json json = {{"dir", state.dir}, {"secret_file", state.secret_path()}, {"nodes", nlohmann::json::array()}};
  json["directory"] = {{"pid", state.directory.process.pid},
                       {"listen", state.directory.listen},
                       {"http", state.directory.http}};
  for (const ClusterMember& node : state.nodes) {
    json["nodes"].push_back({{"node", node.name},
                             {"pid", node.process.pid},
                             {"socket", node.socket},
                             {"peer", node.listen},
                             {"http", node.http}});
  }
  return json;
}

absl::StatusOr<int> Up(const Arguments& arguments) {
  STEM_ASSIGN(const ClusterState state, arguments.resume ? ClusterResume(arguments.up.dir, arguments.up.binaries)
                                                         : ClusterUp(arguments.up));
  if (arguments.json != "-") {
    fmt::print("directory  pid {:<8} {}  metrics http://{}/metrics\n", state.directory.process.pid,
               state.directory.listen, state.directory.http);
    for (const ClusterMember& node : state.nodes) {
      fmt::print("{:<10} pid {:<8} {}  metrics http://{}/metrics\n", node.name, node.process.pid, node.socket,
                 node.http);
    }
    fmt::print("console    http://{}/\n", state.directory.http);
    if (state.admin) fmt::print("orders     show it the token in {}.token\n", state.ready_path(state.directory));
  }
  STEM_TRY(WriteJson(arguments.json, ToJson(state).dump(2)));
  return kExitOk;
}

absl::StatusOr<int> Down(const Arguments& arguments) {
  STEM_ASSIGN(const ClusterDownResult result, ClusterDown(arguments.up.dir));
  if (arguments.json != "-") {
    fmt::print("stopped {}, killed {}, not running before {}\n", result.stopped, result.killed, result.not_running);
  }
  const nlohmann::json json = {
      {"stopped", result.stopped}, {"killed", result.killed}, {"not_running", result.not_running}};
  STEM_TRY(WriteJson(arguments.json, json.dump(2)));
  return kExitOk;
}

absl::StatusOr<int> Status(const Arguments& arguments) {
  STEM_ASSIGN(const ClusterState state, ReadClusterState(arguments.up.dir));
  const ClusterStatus status = QueryStatus(TargetsOf(state));
  if (arguments.json != "-") STEM_TRY(PrintText(status.ToTable()));
  STEM_TRY(WriteJson(arguments.json, status.ToJson().dump(2)));
  return status.whole() ? kExitOk : kExitFailed;
}

}  // namespace

void AddClusterCommand(CLI::App& app, const std::string& binaries, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  arguments->up.binaries = binaries;
  CLI::App& cluster = *app.add_subcommand("cluster", "a local cluster of real processes: one directory and some nodes");
  cluster.require_subcommand(1);
  const auto add = [&](const char* name, const char* description, absl::StatusOr<int> (*what)(const Arguments&)) {
    CLI::App& command = *cluster.add_subcommand(name, description);
    command.add_option("--dir", arguments->up.dir, "folder of the cluster's state, logs and SSD tiers")->required();
    command.add_option("--json", arguments->json, "write the result as JSON; - = standard output");
    command.callback([arguments, run, what] { *run = [arguments, what] { return what(*arguments); }; });
    return &command;
  };
  CLI::App& up = *add("up", "start it and return when all of it is ready", Up);
  up.add_option("--nodes", arguments->up.nodes, "nodes")->check(CLI::Range(1, 64))->capture_default_str();
  AddBytesOption(up, "--dram", arguments->up.dram_bytes, {kDramBytesMin, kBytesMax}, "DRAM of each node");
  up.add_option("--map-host-peers", arguments->up.map_host_peers, "let nodes read each other's memory in place; false: over UCX")
      ->capture_default_str();
  AddBytesOption(up, "--ssd", arguments->up.ssd_bytes, {0, kBytesMax}, "SSD tier of each node; 0 = none");
  up.add_option("--policy", arguments->up.policy, "who leaves DRAM first")->capture_default_str();
  up.add_option("--admission", arguments->up.admission, "who is worth a write to SSD")->capture_default_str();
  up.add_flag("--admin", arguments->up.admin, "the console takes orders (drain, pin, evict) from who shows its token");
  up.add_flag("--resume", arguments->resume, "start again what is not running of the cluster in --dir, as it was");
  add("down", "stop it; its secret and its SSD tiers stay in --dir", Down);
  add("status", "what its processes say of themselves; exit code 1 when one does not answer", Status);
}

}  // namespace stem
