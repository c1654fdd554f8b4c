#include "services/ctl/commands.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace stem {

absl::StatusOr<std::optional<int>> ParseArguments(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::Success& asked) {  // help or version
    return app.exit(asked);
  } catch (const CLI::ConversionError& wrong) {
    return absl::InvalidArgumentError(absl::StrCat(wrong.what(), " is not a number in range; see --help"));
  } catch (const CLI::ParseError& wrong) {
    const std::vector<std::string> unknown = app.remaining(true);
    if (!unknown.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("unknown argument '", unknown.front(), "'; see --help"));
    }
    return absl::InvalidArgumentError(absl::StrCat(wrong.what(), "; see --help"));
  }
}

absl::Status PrintText(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("cannot write standard output: %s", std::strerror(errno)));
}

absl::Status WriteJson(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::FILE* const file = path == "-" ? stdout : std::fopen(path.c_str(), "we");
  if (file == nullptr) {
    return absl::UnavailableError(absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
  }
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  written = std::fputc('\n', file) != EOF && written;
  written = (file == stdout ? std::fflush(file) : std::fclose(file)) == 0 && written;
  return written ? absl::OkStatus()
                 : absl::UnavailableError(absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
}

}  // namespace stem
