// The directory of one spill store: whose it is, which format it has, whether it takes direct I/O, how much is free.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem {

// Holds the directory's lock from Open until it is destroyed. Threads: any.
class SpillDirectory {
 public:
  // Creates `path` (mode 0700: it holds what tenants said) and what is missing above it, or takes over an existing one.
  // Errors: FailedPrecondition (in use by another process or store; of another format version; neither empty nor a
  // spill directory), InvalidArgument (not a directory, not creatable, not writable).
  static absl::StatusOr<std::unique_ptr<SpillDirectory>> Open(absl::string_view path);

  ~SpillDirectory();
  SpillDirectory(const SpillDirectory&) = delete;
  SpillDirectory& operator=(const SpillDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string index_path() const { return path_ + "/index"; }
  std::string payload_path() const { return path_ + "/payload"; }

  // Whether files here can be opened with O_DIRECT; some file systems (older tmpfs, some overlays) refuse.
  bool direct_io() const { return direct_io_; }

  // Bytes that an unprivileged process could still write to this file system.
  uint64_t free_bytes() const;

 private:
  SpillDirectory(std::string path, int lock_fd, bool direct_io);

  const std::string path_;
  const int lock_fd_;
  const bool direct_io_;
};

}  // namespace stem
