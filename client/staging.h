// Where in a client's staging memory the payloads of its reservations lie. First fit over free ranges: reservations are
// few and short-lived, so the ranges stay few.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/btree_map.h"
#include "proto/mutex.h"

namespace stem {

// Offsets in `bytes` of staging, multiples of kStagingAlignment. Threads: any.
class StagingAllocator {
 public:
  explicit StagingAllocator(uint64_t bytes);

  // The offset of `bytes` (> 0) that nobody else has, or nothing.
  std::optional<uint64_t> Allocate(uint64_t bytes);
  // Gives back what Allocate(bytes) returned.
  void Free(uint64_t offset, uint64_t bytes);

  uint64_t bytes_free() const;

 private:
  mutable Mutex mutex_;
  absl::btree_map<uint64_t, uint64_t> free_ ABSL_GUARDED_BY(mutex_);  // offset -> bytes; no two touch
  uint64_t bytes_free_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
