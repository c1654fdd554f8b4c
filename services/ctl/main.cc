// stemctl: runs, measures and watches a Stemcache cluster. One subcommand a file; see commands.h.
#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "services/ctl/commands.h"
#include "services/runtime/config.h"
#include "services/runtime/version.h"

int main(int argc, char** argv) {
  CLI::App app("Runs, measures and watches a Stemcache cluster.", "stemctl");
  app.set_version_flag("--version", absl::StrCat("stemctl ", stem::kVersion));
  app.require_subcommand(1);
  std::error_code error;
  const std::string binaries = std::filesystem::canonical("/proc/self/exe", error).parent_path().string();
  stem::Command run;
  stem::AddAdviseCommand(app, &run);
  stem::AddBenchCommand(app, binaries, &run);
  stem::AddClusterCommand(app, binaries, &run);
  stem::AddExplainCommand(app, &run);
  stem::AddLeverCommands(app, &run);
  stem::AddCompletionCommand(app, &run);
  stem::AddDiagnoseCommand(app, &run);
  stem::AddPlanCommand(app, &run);
  stem::AddProfileCommand(app, &run);
  stem::AddReplayCommand(app, &run);
  stem::AddSimulateCommand(app, &run);
  stem::AddStatusCommand(app, &run);
  stem::AddTailCommand(app, &run);
  stem::AddTopCommand(app, &run);
  stem::AddWorkloadCommand(app, &run);
  const auto parsed = stem::ParseArguments(app, argc, argv);
  if (!parsed.ok()) return stem::ReportFailure("stemctl", parsed.status(), std::cerr);
  if (*parsed) return **parsed;
  const absl::StatusOr<int> exit_code = run();
  return exit_code.ok() ? *exit_code : stem::ReportFailure("stemctl", exit_code.status(), std::cerr);
}
