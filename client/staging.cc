#include "client/staging.h"

#include <iterator>

#include "proto/check.h"
#include "proto/validate.h"

namespace stem {
namespace {

uint64_t RoundUp(uint64_t bytes) { return (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment; }

}  // namespace

StagingAllocator::StagingAllocator(uint64_t bytes) : bytes_free_(bytes / kStagingAlignment * kStagingAlignment) {
  if (bytes_free_ > 0) free_.emplace(0, bytes_free_);
}

std::optional<uint64_t> StagingAllocator::Allocate(uint64_t bytes) {
  STEM_CHECK(bytes > 0);
  const uint64_t needed = RoundUp(bytes);
  MutexLock lock(mutex_);
  for (auto range = free_.begin(); range != free_.end(); ++range) {
    if (range->second < needed) continue;
    const uint64_t offset = range->first;
    const uint64_t rest = range->second - needed;
    free_.erase(range);
    if (rest > 0) free_.emplace(offset + needed, rest);
    bytes_free_ -= needed;
    return offset;
  }
  return std::nullopt;
}

void StagingAllocator::Free(uint64_t offset, uint64_t bytes) {
  uint64_t freed = RoundUp(bytes);
  MutexLock lock(mutex_);
  bytes_free_ += freed;
  auto next = free_.lower_bound(offset);
  STEM_CHECK(next == free_.end() || next->first >= offset + freed);
  if (next != free_.end() && next->first == offset + freed) {
    freed += next->second;
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    const auto previous = std::prev(next);
    STEM_CHECK(previous->first + previous->second <= offset);
    if (previous->first + previous->second == offset) {
      previous->second += freed;
      return;
    }
  }
  free_.emplace(offset, freed);
}

uint64_t StagingAllocator::bytes_free() const {
  MutexLock lock(mutex_);
  return bytes_free_;
}

}  // namespace stem
