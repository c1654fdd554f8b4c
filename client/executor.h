// Two threads for the client's asynchronous copies and attaches, started with the first task.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "proto/mutex.h"

namespace stem {

// Threads: any.
class Executor {
 public:
  static constexpr size_t kThreads = 2;
  static constexpr size_t kTasksMax = 4096;

  Executor() = default;
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Queues a task; false when kTasksMax wait already or after Stop.
  bool Post(std::function<void()> task);
  // Runs what is queued, then ends the threads. Not from a task.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
