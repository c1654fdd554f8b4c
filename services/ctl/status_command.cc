// stemctl status: what the processes of a cluster say of themselves.
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/status.h"
#include "services/ctl/targets.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  TargetArguments targets;
  std::string json;
};

absl::StatusOr<int> Run(const Arguments& arguments) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  STEM_TRY(RequireSomebody(targets));
  const ClusterStatus status = QueryStatus(targets);
  if (arguments.json != "-") STEM_TRY(PrintText(status.ToTable()));
  STEM_TRY(WriteJson(arguments.json, status.ToJson().dump(2)));
  return status.whole() ? kExitOk : kExitFailed;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *app.add_subcommand("status", "what nodes and directories hold and do; exit code 1 when one is silent");
  AddTargets(command, &arguments->targets);
  command.add_option("--json", arguments->json, "write the answers as JSON; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
