// Which processes a command asks: its flags, alike in all commands.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "services/ctl/status.h"

namespace stem {

struct TargetArguments {
  StatusTargets targets;
  std::string dir;
};

// --dir, or --nodes, --directory and --secret-file. `arguments` outlives the parse.
void AddTargets(CLI::App& command, TargetArguments* arguments);

// Maybe nobody. Errors: why --dir is no cluster.
absl::StatusOr<StatusTargets> TargetsOf(const TargetArguments& arguments);

// Errors: InvalidArgument says by which flags somebody is to be asked.
absl::Status RequireSomebody(const StatusTargets& targets);

}  // namespace stem
