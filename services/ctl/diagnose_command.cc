// stemctl diagnose: what is wrong, and what to change.
#include <memory>
#include <string>

#include <nlohmann/json.hpp>

#include "services/ctl/commands.h"
#include "services/ctl/diagnosis.h"
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
  STEM_TRY(ReadSecret(targets.secret_file).status());
  const Diagnosis diagnosis = Diagnose(AskDiagnosis(targets));
  if (arguments.json != "-") STEM_TRY(PrintText(diagnosis.ToText()));
  STEM_TRY(WriteJson(arguments.json, diagnosis.ToJson().dump(2)));
  return diagnosis.healthy() ? kExitOk : kExitFailed;
}

}  // namespace

void AddDiagnoseCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(
      "diagnose", "working set against room, what more DRAM or SSD would add, copies, namespaces, misses, and advice; exit code 1 when there is trouble");
  AddTargets(command, &arguments->targets);
  command.add_option("--json", arguments->json, "write the report as JSON; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
