#include "services/node/announce/change_log.h"

#include <algorithm>

namespace stem {

void ChangeLog::Append(const BlockChange& change) {
  MutexLock lock(mutex_);
  changes_.push_back(change);
  if (changes_.size() > changes_max_) changes_.pop_front();
  ++sequence_;
  appended_.NotifyAll();
}

uint64_t ChangeLog::sequence() const {
  MutexLock lock(mutex_);
  return sequence_;
}

ChangeLog::Slice ChangeLog::ReadAfter(uint64_t after, size_t count_max, absl::Duration timeout) const {
  Slice slice;
  MutexLock lock(mutex_);
  if (sequence_ <= after) appended_.WaitFor(mutex_, timeout);
  if (sequence_ <= after) return slice;
  const uint64_t behind = sequence_ - after;
  if (behind > changes_.size()) {
    slice.lost = true;
    return slice;
  }
  const auto first = changes_.end() - static_cast<ptrdiff_t>(behind);
  const auto last = first + static_cast<ptrdiff_t>(std::min<uint64_t>(behind, count_max));
  slice.changes.assign(first, last);
  return slice;
}

}  // namespace stem
