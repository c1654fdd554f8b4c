// What every daemon's command line and config file share: sizes, durations, one-line errors, exit codes.
//   exit codes: 0 did what was asked, 1 failed at run time, 2 was asked wrongly (a flag, a value, a config file)
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace stem {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

// "4096", "64KiB", "512MiB", "1GiB", "2TiB": whole numbers, binary units only. Errors: InvalidArgument.
absl::StatusOr<uint64_t> ParseBytes(absl::string_view text);

// "250us", "200ms", "2s", "5m", "1h": a whole number and a unit; "0" needs none. Errors: InvalidArgument.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

// The shortest text that ParseBytes reads back: 536870912 -> "512MiB".
std::string FormatBytes(uint64_t bytes);

struct BytesRange {
  uint64_t min = 0;
  uint64_t max = UINT64_MAX;
};
struct DurationRange {
  absl::Duration min = absl::ZeroDuration();
  absl::Duration max = absl::Hours(1);
};

// Options whose text is a size or a duration. `target` holds the default, is shown by --help, and must outlive
// `app`'s parse. A bad value or one outside `range` ends the parse with a line that names it.
CLI::Option* AddBytesOption(CLI::App& app, const std::string& name, uint64_t& target, BytesRange range,
                            const std::string& description);
CLI::Option* AddDurationOption(CLI::App& app, const std::string& name, absl::Duration& target, DurationRange range,
                               const std::string& description);

// A text option with a check of its own, e.g. ParseHostPort: `check` returns why the value will not do.
CLI::Option* AddCheckedOption(CLI::App& app, const std::string& name, std::string& target,
                              std::function<absl::Status(absl::string_view)> check, const std::string& description);

struct CommandLine {
  std::optional<int> exit_code;  // set: print nothing more and end with it
  bool check_config = false;     // --check-config: check what is left to check, print "ok", end with 0
};

// Adds --config FILE (TOML; an unknown key is an error that names it), --check-config and --version to `app`,
// then parses. Help and version go to `out`; an error is one line on `err`: "<app name>: <what>; <what is right>".
CommandLine ParseCommandLine(CLI::App& app, int argc, const char* const* argv, std::ostream& out, std::ostream& err);

// Writes `status` as one line on `err` and returns the exit code: InvalidArgument is usage, the rest failed.
int ReportFailure(absl::string_view process, const absl::Status& status, std::ostream& err);

}  // namespace stem
