// The numbered changes of this node: what every directory's stream is made of (law 5). Bounded: a stream that falls behind
// the oldest kept change needs a snapshot.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "storage/pool/block_pool.h"

namespace stem {

class ChangeLog {
 public:
  explicit ChangeLog(size_t changes_max) : changes_max_(changes_max) {}

  // Numbers `change` with the next sequence, from 1. Called under a pool's lock, so that numbers follow the pool's order.
  void Append(const BlockChange& change);

  // Last number given; 0 = none yet.
  uint64_t sequence() const;

  struct Slice {
    bool lost = false;                 // changes after `after` are no longer kept: take a snapshot
    std::vector<BlockChange> changes;  // numbered after + 1, ...
  };
  // At most `count_max` changes after number `after`; waits up to `timeout` for the first one.
  Slice ReadAfter(uint64_t after, size_t count_max, absl::Duration timeout) const;

 private:
  const size_t changes_max_;
  mutable Mutex mutex_;
  mutable CondVar appended_;
  std::deque<BlockChange> changes_ ABSL_GUARDED_BY(mutex_);  // the last is number sequence_
  uint64_t sequence_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
