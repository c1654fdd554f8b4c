#include "storage/spill/spill_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace stem {
namespace {

// One line that people can read too; the number is that of the records (record.h), which this store cannot mix.
constexpr absl::string_view kFormatLine = "stemcache spill format 2\n";
constexpr const char* kFormatFile = "FORMAT";

absl::Status Refused(absl::string_view path, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("spill directory ", path, ": ", why));
}

absl::Status CannotUse(absl::string_view path, absl::string_view what, int error) {
  return absl::InvalidArgumentError(absl::StrCat("spill directory ", path, ": ", what, ": ", std::strerror(error)));
}

absl::Status CreateDirectory(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::create_directories(path, error)) {
    if (error) return CannotUse(path, "cannot be created", error.value());
    return absl::OkStatus();  // it was there; its mode is its owner's choice
  }
  std::filesystem::permissions(path, std::filesystem::perms::owner_all, error);
  return error ? CannotUse(path, "cannot be made private", error.value()) : absl::OkStatus();
}

// The first entry that no spill directory has at its top, or nothing.
std::string ForeignEntry(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const std::string name = entry.path().filename();
    if (name != "lost+found" && name != kFormatFile) return name;
  }
  return "";
}

bool TakesDirectIo(const std::string& path) {
  const std::string probe = path + "/direct_io_probe";
  const int fd = open(probe.c_str(), O_CREAT | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
  if (fd >= 0) close(fd);
  unlink(probe.c_str());
  return fd >= 0;
}

// Checks the format file, or writes it into a fresh directory. `fd` is locked.
absl::Status CheckFormat(const std::string& path, int fd) {
  char line[64] = {};
  const ssize_t line_bytes = pread(fd, line, sizeof(line) - 1, 0);
  if (line_bytes < 0) return CannotUse(path, "FORMAT cannot be read", errno);
  const absl::string_view found(line, static_cast<size_t>(line_bytes));
  if (found == kFormatLine) return absl::OkStatus();
  if (!found.empty()) {
    return Refused(path, absl::StrCat("holds \"", absl::StripSuffix(found, "\n"), "\", this build needs \"",
                                      absl::StripSuffix(kFormatLine, "\n"), "\"; give it another directory"));
  }
  if (const std::string foreign = ForeignEntry(path); !foreign.empty()) {
    unlink((path + "/" + kFormatFile).c_str());
    return Refused(path, absl::StrCat("no spill directory, and not empty (holds ", foreign, "); give it an empty one"));
  }
  if (pwrite(fd, kFormatLine.data(), kFormatLine.size(), 0) != static_cast<ssize_t>(kFormatLine.size()) ||
      fsync(fd) != 0) {
    return CannotUse(path, "FORMAT cannot be written", errno);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpillDirectory>> SpillDirectory::Open(absl::string_view path_given) {
  std::string path(path_given);
  if (path.empty()) return absl::InvalidArgumentError("spill directory: the path is empty");
  STEM_TRY(CreateDirectory(path));
  const int fd = open((path + "/" + kFormatFile).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return CannotUse(path, "FORMAT cannot be opened", errno);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    close(fd);
    return Refused(path, "is in use by another process or store");
  }
  if (absl::Status format = CheckFormat(path, fd); !format.ok()) {
    close(fd);
    return format;
  }
  const bool direct_io = TakesDirectIo(path);
  return std::unique_ptr<SpillDirectory>(new SpillDirectory(std::move(path), fd, direct_io));
}

SpillDirectory::SpillDirectory(std::string path, int lock_fd, bool direct_io)
    : path_(std::move(path)), lock_fd_(lock_fd), direct_io_(direct_io) {}

SpillDirectory::~SpillDirectory() { close(lock_fd_); }

uint64_t SpillDirectory::free_bytes() const {
  struct statvfs info;
  if (statvfs(path_.c_str(), &info) != 0) return 0;
  return uint64_t{info.f_bavail} * info.f_frsize;
}

}  // namespace stem
