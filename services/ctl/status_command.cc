// stemctl status: what the processes of a cluster say of themselves.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "services/ctl/cluster_state.h"
#include "services/ctl/commands.h"
#include "services/ctl/status.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  StatusTargets targets;
  std::string dir;
  std::string json;
};

absl::StatusOr<int> Run(const Arguments& arguments) {
  StatusTargets targets = arguments.targets;
  if (!arguments.dir.empty()) {
    STEM_ASSIGN(const ClusterState state, ReadClusterState(arguments.dir));
    targets = TargetsOf(state);
  }
  if (targets.nodes.empty() && targets.directories.empty()) {
    return absl::InvalidArgumentError("nobody to ask; give --dir, --nodes or --directory");
  }
  const ClusterStatus status = QueryStatus(targets);
  if (arguments.json != "-") std::fputs(status.ToTable().c_str(), stdout);
  STEM_TRY(WriteJson(arguments.json, status.ToJson().dump(2)));
  return status.whole() ? kExitOk : kExitFailed;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *app.add_subcommand("status", "what nodes and directories hold and do; exit code 1 when one is silent");
  CLI::Option* const dir = command.add_option("--dir", arguments->dir, "cluster started by `stemctl cluster up --dir`");
  CLI::Option* const nodes =
      command.add_option("--nodes", arguments->targets.nodes, "Unix sockets, e.g. D/node-1/node.sock")->delimiter(',');
  CLI::Option* const directories =
      command.add_option("--directory", arguments->targets.directories, "host:port,...")->delimiter(',');
  CLI::Option* const secret =
      command.add_option("--secret-file", arguments->targets.secret_file, "the cluster's, for TCP");
  for (CLI::Option* const given_by_dir : {nodes, directories, secret}) dir->excludes(given_by_dir);
  command.add_option("--json", arguments->json, "write the answers as JSON; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
