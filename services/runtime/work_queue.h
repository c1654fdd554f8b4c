// A bounded pool of threads with a bounded queue: work that does not fit is refused, never piled up (law 8).
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "proto/mutex.h"

namespace stem {

class WorkQueue {
 public:
  // `threads` >= 1, `depth_max` >= 1 tasks that wait.
  WorkQueue(size_t threads, size_t depth_max);
  // Runs what is queued, then joins.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // False, and `task` is not run, when the queue is full or shut down. Threads: any.
  [[nodiscard]] bool TryPost(std::function<void()> task);
  size_t depth() const;

 private:
  void Run();

  const size_t depth_max_;
  mutable Mutex mutex_;
  CondVar work_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace stem
