// Shell completion of a CLI11 app: a script for bash, zsh or fish that knows its subcommands, flags and the words that flags take.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "proto/status.h"

namespace stem {

// Errors: InvalidArgument (another shell).
absl::StatusOr<std::string> CompletionScript(const CLI::App& app, const std::string& shell);

}  // namespace stem
