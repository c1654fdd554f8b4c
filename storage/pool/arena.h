// The memory of one trust group on one node: a memfd per incarnation, fully allocated at start, sealed so that nobody can
// shrink it or map it writable again. A node's death leaves its clients' mappings whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "proto/status.h"

namespace stem {

// A file descriptor that closes itself. -1 = none.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();

 private:
  int fd_ = -1;
};

// A mapping of a memfd that unmaps itself.
class Mapping {
 public:
  enum class Access { kReadOnly, kReadWrite };

  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Maps `bytes` of `fd`. Errors: FailedPrecondition when the file is shorter than that or can still shrink (a later
  // access would be SIGBUS), ResourceExhausted when the kernel refuses.
  static absl::StatusOr<Mapping> Create(int fd, uint64_t bytes, Access access);

  std::span<std::byte> bytes() const { return {data_, bytes_}; }

  // A share of the work that the first read of each page would cost (half of a load's time): enters pages that the file has into
  // this process's table, from byte `first` on. Returns where to go on; bytes().size() when all is done. 1 to 2 ms a call.
  size_t PrefaultFrom(size_t first) const;

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// The node's end of an arena, or of one client's staging.
class Arena {
 public:
  enum class Sharing {
    kReadOnlyForOthers,  // an arena: only this mapping can ever write
    kWritableByOne,      // staging: its client writes, the node reads
  };

  // Allocates every page now: no later fault can fail. Errors: ResourceExhausted naming the bytes and the limit.
  static absl::StatusOr<Arena> Create(const std::string& name, uint64_t bytes, Sharing sharing);

  std::span<std::byte> bytes() const { return mapping_.bytes(); }
  // To pass over the attach socket; stays owned by the arena.
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  Mapping mapping_;
};

}  // namespace stem
