// One result, set by one thread and waited for by another: how the synchronous calls wait for the asynchronous ones.
#pragma once

#include <optional>
#include <utility>

#include "client/deadline.h"
#include "proto/mutex.h"

namespace stem {

template <typename T>
class Outcome {
 public:
  void Set(T value) {
    MutexLock lock(mutex_);
    value_.emplace(std::move(value));
    set_.NotifyAll();
  }

  // False when the deadline passed first.
  bool WaitUntil(const Deadline& deadline) {
    MutexLock lock(mutex_);
    while (!value_.has_value()) {
      const absl::Duration left = deadline.left();
      if (left <= absl::ZeroDuration()) return false;
      set_.WaitFor(mutex_, left);
    }
    return true;
  }

  // Waits without end: only once somebody is bound to Set.
  T Take() {
    MutexLock lock(mutex_);
    while (!value_.has_value()) set_.Wait(mutex_);
    return *std::move(value_);
  }

 private:
  Mutex mutex_;
  CondVar set_;
  std::optional<T> value_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
