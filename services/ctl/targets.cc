#include "services/ctl/targets.h"

#include "services/ctl/cluster_state.h"

namespace stem {

void AddTargets(CLI::App& command, TargetArguments* arguments) {
  StatusTargets& targets = arguments->targets;
  CLI::Option* const dir = command.add_option("--dir", arguments->dir, "cluster started by `stemctl cluster up --dir`");
  CLI::Option* const nodes =
      command.add_option("--nodes", targets.nodes, "Unix sockets, e.g. D/node-1/node.sock, or host:port,...")->delimiter(',');
  CLI::Option* const directories =
      command.add_option("--directory", targets.directories, "host:port,...; without --nodes the nodes that it knows are asked")->delimiter(',');
  CLI::Option* const secret = command.add_option("--secret-file", targets.secret_file, "the cluster's");
  for (CLI::Option* const given_by_dir : {nodes, directories, secret}) dir->excludes(given_by_dir);
}

absl::StatusOr<StatusTargets> TargetsOf(const TargetArguments& arguments) {
  if (!arguments.dir.empty()) {
    STEM_ASSIGN(const ClusterState state, ReadClusterState(arguments.dir));
    return TargetsOf(state);
  }
  return arguments.targets;
}

absl::Status RequireSomebody(const StatusTargets& targets) {
  if (!targets.nodes.empty() || !targets.directories.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("nobody to ask; give --dir, --nodes or --directory");
}

}  // namespace stem
