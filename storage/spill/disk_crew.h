// Threads that keep a disk busy: each waits for one request at a time, so as many as there are give the queue its depth.
// Whoever needs several things read or written hands them over, takes part, and gets them all back.
#pragma once

#include <cstddef>
#include <deque>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "proto/mutex.h"

namespace stem {

// Threads: Run from any.
class DiskCrew {
 public:
  explicit DiskCrew(size_t threads);
  // Nobody may be inside Run.
  ~DiskCrew();
  DiskCrew(const DiskCrew&) = delete;
  DiskCrew& operator=(const DiskCrew&) = delete;

  // Calls job(0) to job(count - 1), each once, on this thread and the crew's; returns after the last. One alone never
  // leaves this thread. Callers are served in order of arrival, and each has its own thread in any case.
  void Run(size_t count, absl::FunctionRef<void(size_t)> job);

 private:
  struct Order {
    const absl::FunctionRef<void(size_t)> job;
    const size_t count;
    size_t next = 0;  // the first that nobody took
    size_t done = 0;
    CondVar finished;
  };

  void Work();
  // Takes one job of `order` and does it, without the lock meanwhile.
  void DoOne(Order& order) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mutex mutex_;
  CondVar wanted_;
  std::deque<Order*> orders_ ABSL_GUARDED_BY(mutex_);  // those with jobs that nobody took; one a caller at most
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace stem
