#include "services/runtime/config.h"

#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

struct Unit {
  absl::string_view suffix;
  uint64_t bytes;
};
constexpr Unit kUnits[] = {{"TiB", 1ULL << 40}, {"GiB", 1ULL << 30}, {"MiB", 1ULL << 20}, {"KiB", 1ULL << 10}};

// Digits only: SimpleAtoi also takes signs and spaces.
std::optional<uint64_t> Digits(absl::string_view text) {
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
  }
  uint64_t number = 0;
  if (!absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

std::string OneLine(absl::string_view text) {
  const std::string line = absl::StrReplaceAll(text, {{"\r", " "}, {"\n", " "}});
  return std::string(absl::StripTrailingAsciiWhitespace(line));
}

template <typename T>
void ThrowUnless(const std::string& name, const absl::StatusOr<T>& value) {
  if (!value.ok()) throw CLI::ValidationError(name, std::string(value.status().message()));
}

// What went wrong, in our words where CLI11's would not say what is right.
std::string Explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::string what = error.what();
  const std::vector<std::string> unknown = app.remaining(true);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !unknown.empty()) {
    return absl::StrCat("unknown argument '", unknown.front(), "'; see --help");
  }
  if (dynamic_cast<const CLI::ConfigError*>(&error) != nullptr) {
    absl::string_view key = what;
    if (absl::ConsumePrefix(&key, "INI was not able to parse ")) {
      return absl::StrCat("the config file has an unknown key '", key,
                          "'; its keys are the flags of --help, without '--'");
    }
  }
  absl::string_view rest = what;
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr &&
      absl::ConsumePrefix(&rest, "Could not convert: ")) {
    const std::pair<absl::string_view, absl::string_view> option = absl::StrSplit(rest, absl::MaxSplits(" = ", 1));
    return absl::StrCat(option.first, ": '", option.second, "' is not a number that fits here; see --help");
  }
  if (dynamic_cast<const CLI::FileError*>(&error) != nullptr) return absl::StrCat("--config: ", what);
  return absl::StrCat(what, "; see --help");
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(absl::string_view text) {
  absl::string_view digits = text;
  uint64_t unit_bytes = 1;
  for (const Unit& unit : kUnits) {
    if (absl::ConsumeSuffix(&digits, unit.suffix)) {
      unit_bytes = unit.bytes;
      break;
    }
  }
  const std::optional<uint64_t> count = Digits(digits);
  if (!count || *count > std::numeric_limits<uint64_t>::max() / unit_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a size; use e.g. 512MiB"));
  }
  return *count * unit_bytes;
}

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  constexpr std::pair<absl::string_view, int64_t> kMicros[] = {
      {"us", 1}, {"ms", 1000}, {"s", 1'000'000}, {"m", 60'000'000}, {"h", 3'600'000'000}};
  if (text == "0") return absl::ZeroDuration();
  for (const auto& [suffix, micros] : kMicros) {
    absl::string_view digits = text;
    if (!absl::ConsumeSuffix(&digits, suffix)) continue;
    const std::optional<uint64_t> count = Digits(digits);
    if (count && *count <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / micros)) {
      return absl::Microseconds(static_cast<int64_t>(*count) * micros);
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a duration; use e.g. 200ms or 2s"));
}

std::string FormatBytes(uint64_t bytes) {
  for (const Unit& unit : kUnits) {
    if (bytes >= unit.bytes && bytes % unit.bytes == 0) return absl::StrCat(bytes / unit.bytes, unit.suffix);
  }
  return absl::StrCat(bytes);
}

CLI::Option* AddBytesOption(CLI::App& app, const std::string& name, uint64_t& target, BytesRange range,
                            const std::string& description) {
  const auto parse = [name, &target, range](const std::string& text) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
    ThrowUnless(name, bytes);
    if (*bytes < range.min || *bytes > range.max) {
      throw CLI::ValidationError(name, absl::StrCat("'", text, "' is out of range; it must be ", FormatBytes(range.min),
                                                    " to ", FormatBytes(range.max)));
    }
    target = *bytes;
  };
  return app.add_option_function<std::string>(name, parse, description)->default_str(FormatBytes(target));
}

CLI::Option* AddDurationOption(CLI::App& app, const std::string& name, absl::Duration& target, DurationRange range,
                               const std::string& description) {
  const auto parse = [name, &target, range](const std::string& text) {
    const absl::StatusOr<absl::Duration> duration = ParseDuration(text);
    ThrowUnless(name, duration);
    if (*duration < range.min || *duration > range.max) {
      throw CLI::ValidationError(
          name, absl::StrCat("'", text, "' is out of range; it must be ", absl::FormatDuration(range.min), " to ",
                             absl::FormatDuration(range.max)));
    }
    target = *duration;
  };
  return app.add_option_function<std::string>(name, parse, description)->default_str(absl::FormatDuration(target));
}

CLI::Option* AddCheckedOption(CLI::App& app, const std::string& name, std::string& target,
                              std::function<absl::Status(absl::string_view)> check, const std::string& description) {
  const auto parse = [name, &target, check = std::move(check)](const std::string& text) {
    if (const absl::Status status = check(text); !status.ok()) {
      throw CLI::ValidationError(name, std::string(status.message()));
    }
    target = text;
  };
  return app.add_option_function<std::string>(name, parse, description)->default_str(target);
}

CommandLine ParseCommandLine(CLI::App& app, int argc, const char* const* argv, std::ostream& out, std::ostream& err) {
  CommandLine line;
  app.set_config("--config", "", "read these flags from a TOML file; flags given here win");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.set_version_flag("--version", absl::StrCat(app.get_name(), " ", kVersion))->configurable(false);
  app.add_flag("--check-config", line.check_config, "check flags and config file, then end")->configurable(false);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {  // help or version
    line.exit_code = app.exit(asked, out, err);
  } catch (const CLI::ParseError& error) {
    err << OneLine(absl::StrCat(app.get_name(), ": ", Explain(app, error))) << std::endl;
    line.exit_code = kExitUsage;
  } catch (const std::exception& error) {
    err << OneLine(absl::StrCat(app.get_name(), ": ", error.what())) << std::endl;
    line.exit_code = kExitUsage;
  }
  return line;
}

int ReportFailure(absl::string_view process, const absl::Status& status, std::ostream& err) {
  if (status.ok()) return kExitOk;
  err << OneLine(absl::StrCat(process, ": ", status.message())) << std::endl;
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

}  // namespace stem
