// The subcommands of stemctl, one file each. Each adds its flags to the app; what it is to do is left in `run`, to be
// called after the parse. Exit codes: 0 did what was asked, 1 failed, 2 was asked wrongly.
#pragma once

#include <functional>
#include <string>

#include "CLI/CLI.hpp"
#include "proto/status.h"

namespace stem {

// What the parse chose; returns the exit code, or an error to be told in one line.
using Command = std::function<absl::StatusOr<int>()>;

// `app` and `*run` must outlive the parse and the call. `binaries`: folder of stem-node and stem-directory.
void AddClusterCommand(CLI::App& app, const std::string& binaries, Command* run);
void AddReplayCommand(CLI::App& app, Command* run);
void AddStatusCommand(CLI::App& app, Command* run);
void AddWorkloadCommand(CLI::App& app, Command* run);

// Writes `text` to the file of --json; "-" = standard output, empty = nowhere. Errors: Unavailable.
absl::Status WriteJson(const std::string& path, const std::string& text);

}  // namespace stem
