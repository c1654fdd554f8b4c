// Waiting before another try: longer each time, never quite as long as others wait, and cut short by the end of the process.
#pragma once

#include <algorithm>
#include <random>

#include "absl/time/time.h"
#include "proto/mutex.h"

namespace stem {

// Set once, by whoever ends a thread; waited on by that thread.
class StopFlag {
 public:
  void Set() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    set_ = true;
    woken_.NotifyAll();
  }
  // Ends a wait before its time.
  void Nudge() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    nudged_ = true;
    woken_.NotifyAll();
  }
  // False once the flag is set.
  bool WaitFor(absl::Duration time) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    while (!set_ && !nudged_ && woken_.WaitFor(mutex_, time)) {
    }
    nudged_ = false;
    return !set_;
  }
  bool IsSet() ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    return set_;
  }

 private:
  Mutex mutex_;
  CondVar woken_;
  bool set_ ABSL_GUARDED_BY(mutex_) = false;
  bool nudged_ ABSL_GUARDED_BY(mutex_) = false;
};

// Of one thread.
class Backoff {
 public:
  Backoff(absl::Duration first, absl::Duration max) : first_(first), max_(max), next_(first), random_(std::random_device()()) {}

  // The time to wait now: half to all of 1, 2, 4... times `first`, at most `max`.
  absl::Duration Next() {
    const absl::Duration time = next_ * std::uniform_real_distribution<double>(0.5, 1.0)(random_);
    next_ = std::min(next_ * 2, max_);
    return time;
  }
  // It worked.
  void Reset() { next_ = first_; }

 private:
  const absl::Duration first_;
  const absl::Duration max_;
  absl::Duration next_;
  std::minstd_rand random_;
};

}  // namespace stem
