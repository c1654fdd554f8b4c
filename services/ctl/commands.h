// The subcommands of stemctl, one file each. Each adds its flags to the app; what it is to do is left in `run`, to be
// called after the parse. Exit codes: 0 did what was asked, 1 failed, 2 was asked wrongly.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "proto/status.h"

namespace stem {

// What the parse chose; returns the exit code, or an error to be told in one line.
using Command = std::function<absl::StatusOr<int>()>;

// `app` and `*run` must outlive the parse and the call. `binaries`: folder of stem-node and stem-directory.
void AddAdviseCommand(CLI::App& app, Command* run);
void AddBenchCommand(CLI::App& app, const std::string& binaries, Command* run);
void AddClusterCommand(CLI::App& app, const std::string& binaries, Command* run);
void AddExplainCommand(CLI::App& app, Command* run);
void AddLeverCommands(CLI::App& app, Command* run);  // drain, pin, unpin, evict, quota
void AddCompletionCommand(CLI::App& app, Command* run);
void AddDiagnoseCommand(CLI::App& app, Command* run);
void AddPlanCommand(CLI::App& app, Command* run);
void AddProfileCommand(CLI::App& app, Command* run);
void AddReplayCommand(CLI::App& app, Command* run);
void AddSimulateCommand(CLI::App& app, Command* run);
void AddStatusCommand(CLI::App& app, Command* run);
void AddTailCommand(CLI::App& app, Command* run);
void AddTopCommand(CLI::App& app, Command* run);
void AddWorkloadCommand(CLI::App& app, Command* run);

// An option whose text is one of a few words. `target` holds the default, is shown by --help, and must outlive the
// parse.
template <typename T>
void AddChoice(CLI::App& app, const std::string& name, T& target, const std::vector<std::pair<std::string, T>>& choices,
               const std::string& description) {
  std::string words, typed, chosen;
  for (const auto& [word, value] : choices) {
    words += (words.empty() ? "" : ", ") + word;
    typed += (typed.empty() ? "" : ",") + word;
    if (value == target) chosen = word;
  }
  const auto parse = [name, &target, choices, words](const std::string& text) {
    for (const auto& [word, value] : choices) {
      if (word != text) continue;
      target = value;
      return;
    }
    throw CLI::ValidationError(name, "'" + text + "' is unknown; use one of " + words);
  };
  app.add_option_function<std::string>(name, parse, description)->default_str(chosen)->type_name("{" + typed + "}");
}

// Parses; what is wrong with the arguments becomes one line that names it. InvalidArgument, or the exit code of
// --help and --version, or nothing: go on.
absl::StatusOr<std::optional<int>> ParseArguments(CLI::App& app, int argc, const char* const* argv);

// To standard output. Errors: Unavailable (a full disk, a closed pipe).
absl::Status PrintText(const std::string& text);

// Writes `text` to the file of --json; "-" = standard output, empty = nowhere. Errors: Unavailable.
absl::Status WriteJson(const std::string& path, const std::string& text);

}  // namespace stem
