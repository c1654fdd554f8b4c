#include "storage/pool/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

// The number that a kernel file holds, alone ("max" = none) or, with `field`, after that word at the start of a line.
std::optional<uint64_t> ReadNumber(const char* path, const std::string& field = "") {
  std::ifstream in(path);
  std::string word;
  if (field.empty()) {
    uint64_t number = 0;
    return in >> number ? std::optional(number) : std::nullopt;
  }
  while (in >> word) {
    uint64_t number = 0;
    if (word == field && in >> number) return number;
  }
  return std::nullopt;
}

// What may still be allocated before the kernel would end a process for it, by machine and by container.
uint64_t MemoryAvailable() {
  constexpr uint64_t kKiB = 1024;
  uint64_t available = UINT64_MAX;
  if (const auto kib = ReadNumber("/proc/meminfo", "MemAvailable:")) available = *kib * kKiB;
  const auto limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const auto used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit.has_value() && used.has_value()) available = std::min(available, *limit - std::min(*limit, *used));
  return available;
}

// Takes every page now, and maps it: no later fault can fail, or costs a block's first writer half its speed. Also, huge pages come
// through a mapping only. Returns 0 or an errno. Before Linux 5.14 pages are taken and not mapped.
int Allocate(int fd, std::span<std::byte> mapping) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(mapping.data(), mapping.size(), MADV_POPULATE_WRITE) == 0) return 0;
  if (errno != EINVAL) return errno == EFAULT ? ENOMEM : errno;
#endif
  return fallocate(fd, 0, 0, static_cast<off_t>(mapping.size())) == 0 ? 0 : errno;
}

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) close(fd_);
    fd_ = other.release();
  }
  return *this;
}

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

int UniqueFd::release() { return std::exchange(fd_, -1); }

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::StatusOr<Mapping> Mapping::Create(int fd, uint64_t bytes, Access access) {
  struct stat info;
  if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) < bytes) {
    return absl::FailedPreconditionError(absl::StrCat("the file is shorter than the ", bytes, " bytes to map"));
  }
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::FailedPreconditionError("the file is not sealed against shrinking");
  }
  const int protection = access == Access::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ;
  void* data = mmap(nullptr, bytes, protection, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot map ", bytes, " bytes: ", strerror(errno)));
  }
  // Fewer TLB misses where the host allows it; without it everything works.
  madvise(data, bytes, MADV_HUGEPAGE);
  Mapping mapping;
  mapping.data_ = static_cast<std::byte*>(data);
  mapping.bytes_ = bytes;
  return mapping;
}

size_t Mapping::PrefaultFrom(size_t first) const {
  constexpr size_t kShareBytes = 16 << 20;
  const size_t share = std::min(kShareBytes, bytes_ - first);
#ifdef MADV_POPULATE_READ
  if (share > 0 && madvise(data_ + first, share, MADV_POPULATE_READ) != 0) return bytes_;  // Linux before 5.14: reads pay
#endif
  return first + share;
}

absl::StatusOr<Arena> Arena::Create(const std::string& name, uint64_t bytes, Sharing sharing) {
  Arena arena;
  arena.fd_ = UniqueFd(memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!arena.fd_.valid()) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot create memory file ", name, ": ", strerror(errno)));
  }
  // Asked first: for memory that is not there, the kernel ends processes instead of refusing.
  const uint64_t available = MemoryAvailable();
  int cause = bytes > available ? ENOMEM : 0;
  if (cause == 0 && ftruncate(arena.fd(), static_cast<off_t>(bytes)) != 0) cause = errno;
  if (cause == 0) {
    if (fcntl(arena.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
      return absl::InternalError(absl::StrCat("cannot seal ", name, ": ", strerror(errno)));
    }
    STEM_ASSIGN(arena.mapping_, Mapping::Create(arena.fd(), bytes, Mapping::Access::kReadWrite));
    cause = Allocate(arena.fd(), arena.mapping_.bytes());
  }
  if (cause != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes for ", name, ": ", strerror(cause),
                                                     "; ", available,
                                                     " bytes are available here; lower dram or staging, or raise the memory limit"));
  }
  // After our own mapping: F_SEAL_FUTURE_WRITE keeps it writable and refuses every later one.
  const int last = sharing == Sharing::kReadOnlyForOthers ? F_SEAL_FUTURE_WRITE | F_SEAL_SEAL : F_SEAL_SEAL;
  if (fcntl(arena.fd(), F_ADD_SEALS, last) != 0) {
    return absl::InternalError(absl::StrCat("cannot seal ", name, ": ", strerror(errno)));
  }
  return arena;
}

}  // namespace stem
