#include "services/ctl/commands.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_format.h"

namespace stem {

absl::Status WriteJson(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::FILE* const file = path == "-" ? stdout : std::fopen(path.c_str(), "we");
  if (file == nullptr) return absl::UnavailableError(absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  written = std::fputc('\n', file) != EOF && written;
  written = (file == stdout ? std::fflush(file) : std::fclose(file)) == 0 && written;
  return written ? absl::OkStatus() : absl::UnavailableError(absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
}

}  // namespace stem
