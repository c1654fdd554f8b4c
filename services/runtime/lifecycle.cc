#include "services/runtime/lifecycle.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

absl::Status Failed(absl::string_view what, const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

bool WriteAll(int fd, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace

void KeepFreedMemory() {
  constexpr int kMiB = 1 << 20;
  mallopt(M_TRIM_THRESHOLD, 64 * kMiB);
  mallopt(M_TOP_PAD, 4 * kMiB);
  mallopt(M_MMAP_THRESHOLD, 16 * kMiB);  // setting any of them keeps it at 128 KiB, which is a long chain's keys
}

StopSignal::StopSignal() {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  STEM_CHECK(pthread_sigmask(SIG_BLOCK, &signals_, nullptr) == 0);
  std::signal(SIGPIPE, SIG_IGN);
}

absl::string_view StopSignal::Wait() {
  int number = 0;
  while (sigwait(&signals_, &number) != 0) {
  }
  return number == SIGTERM ? "SIGTERM" : "SIGINT";
}

bool StopSignal::WaitFor(absl::Duration timeout) {
  const timespec limit = absl::ToTimespec(timeout);
  return sigtimedwait(&signals_, nullptr, &limit) > 0;
}

absl::Status WriteReadyFile(const std::string& path, absl::string_view text, mode_t mode) {
  const std::string partial = absl::StrCat(path, ".", getpid(), ".tmp");
  const int fd = open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return Failed("create", partial);
  const bool written = WriteAll(fd, text);
  if (close(fd) != 0 || !written) {
    const absl::Status status = Failed("write", partial);
    unlink(partial.c_str());
    return status;
  }
  if (std::rename(partial.c_str(), path.c_str()) != 0) {
    const absl::Status status = Failed("write", path);
    unlink(partial.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace stem
