// Collects the callbacks of one Transport::Read and waits for them; ends the test process when a callback that must
// come once comes twice, or after on_safe.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "proto/check.h"
#include "proto/mutex.h"
#include "storage/transport/transport.h"

namespace stem {

// Must outlive the read's on_safe.
class ReadOutcome {
 public:
  explicit ReadOutcome(size_t ops) : answers_(ops), answered_(ops, false) {}

  ReadCallbacks callbacks() {
    return {.on_op = [this](size_t op, absl::Status status) { OnOp(op, std::move(status)); },
            .on_safe = [this](absl::Status status) { OnSafe(std::move(status)); }};
  }
  // The answers of all ops, once each has one.
  std::vector<absl::Status> WaitAnswers() {
    MutexLock lock(mutex_);
    while (answers_left() > 0) changed_.Wait(mutex_);
    return answers_;
  }
  absl::Status WaitSafe() {
    MutexLock lock(mutex_);
    while (!safe_) changed_.Wait(mutex_);
    return outcome_;
  }
  size_t answered() {
    MutexLock lock(mutex_);
    return answered_.size() - answers_left();
  }

 private:
  size_t answers_left() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return answered_.size() - answers_count_; }
  void OnOp(size_t op, absl::Status status) {
    MutexLock lock(mutex_);
    STEM_CHECK(op < answered_.size() && !answered_[op] && !safe_);
    answered_[op] = true;
    answers_[op] = std::move(status);
    ++answers_count_;
    changed_.NotifyAll();
  }
  void OnSafe(absl::Status status) {
    MutexLock lock(mutex_);
    STEM_CHECK(!safe_ && answers_left() == 0);
    safe_ = true;
    outcome_ = std::move(status);
    changed_.NotifyAll();
  }

  Mutex mutex_;
  CondVar changed_;
  std::vector<absl::Status> answers_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> answered_ ABSL_GUARDED_BY(mutex_);
  size_t answers_count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool safe_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status outcome_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
