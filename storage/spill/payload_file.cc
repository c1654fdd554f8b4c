#include "storage/spill/payload_file.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

// Takes `bytes` off the front of `memory`.
void Advance(std::span<iovec>& memory, size_t bytes) {
  while (bytes > 0) {
    iovec& first = memory.front();
    if (bytes < first.iov_len) {
      first.iov_base = static_cast<std::byte*>(first.iov_base) + bytes;
      first.iov_len -= bytes;
      return;
    }
    bytes -= first.iov_len;
    memory = memory.subspan(1);
  }
}

// The disk answered, and cannot give these bytes back: a bad sector, or a checksum of disk or file system that failed.
bool IsOfTheMedium(int error) {
  return error == EIO || error == ENODATA || error == EILSEQ || error == EBADMSG || error == EUCLEAN;
}

int CountOf(std::span<const iovec> memory) { return static_cast<int>(std::min<size_t>(memory.size(), IOV_MAX)); }

}  // namespace

absl::StatusOr<std::unique_ptr<PayloadFile>> PayloadFile::Open(const std::string& path, bool direct_io) {
  const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC | (direct_io ? O_DIRECT : 0), 0600);
  struct stat info = {};
  if (fd < 0 || fstat(fd, &info) != 0) {
    const absl::Status failed = absl::UnavailableError(absl::StrCat("open ", path, ": ", std::strerror(errno)));
    if (fd >= 0) close(fd);
    return failed;
  }
  const auto pages = static_cast<uint64_t>(info.st_size) / kSpillPageBytes;
  return std::unique_ptr<PayloadFile>(new PayloadFile(path, fd, pages));
}

PayloadFile::~PayloadFile() { close(fd_); }

absl::Status PayloadFile::Failed(const char* doing, int error) const {
  const std::string message = absl::StrCat(doing, " ", path_, ": ", std::strerror(error));
  return error == ENOSPC || error == EDQUOT ? absl::ResourceExhaustedError(absl::StrCat("disk full: ", message))
                                            : absl::UnavailableError(message);
}

absl::Status PayloadFile::Grow(uint64_t pages) {
  const auto from = static_cast<off_t>(this->pages() * kSpillPageBytes);
  const auto to = static_cast<off_t>(pages * kSpillPageBytes);
  int result = 0;
  do {
    result = fallocate(fd_, 0, from, to - from);
  } while (result != 0 && errno == EINTR);
  // File systems without fallocate find out about a full disk at the write.
  if (result != 0 && (errno != EOPNOTSUPP || ftruncate(fd_, to) != 0)) {
    const int error = errno;
    (void)!ftruncate(fd_, from);  // some leave a part of it behind
    return Failed("growth of", error);
  }
  pages_.store(pages, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status PayloadFile::Truncate(uint64_t pages) {
  if (ftruncate(fd_, static_cast<off_t>(pages * kSpillPageBytes)) != 0) return Failed("cutting of", errno);
  pages_.store(pages, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status PayloadFile::Read(uint64_t page, std::span<iovec> memory) const {
  auto at = static_cast<off_t>(page * kSpillPageBytes);
  while (!memory.empty()) {
    const ssize_t bytes = preadv(fd_, memory.data(), CountOf(memory), at);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0 && IsOfTheMedium(errno)) {
      return absl::DataLossError(absl::StrCat(path_, " cannot be read at byte ", at, ": ", std::strerror(errno)));
    }
    if (bytes < 0) return Failed("read of", errno);
    if (bytes == 0) return absl::DataLossError(absl::StrCat(path_, " ends at byte ", at));
    at += bytes;
    Advance(memory, static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

absl::Status PayloadFile::Write(uint64_t page, std::span<iovec> memory) {
  auto at = static_cast<off_t>(page * kSpillPageBytes);
  while (!memory.empty()) {
    const ssize_t bytes = pwritev(fd_, memory.data(), CountOf(memory), at);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return Failed("write to", errno);
    at += bytes;
    write_bytes_.fetch_add(static_cast<uint64_t>(bytes), std::memory_order_relaxed);
    Advance(memory, static_cast<size_t>(bytes));
  }
  return absl::OkStatus();
}

absl::Status PayloadFile::Sync() { return fdatasync(fd_) == 0 ? absl::OkStatus() : Failed("flush of", errno); }

}  // namespace stem
