// Ends asynchronous calls at their deadlines: one thread, started with the first timer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "client/deadline.h"
#include "proto/mutex.h"

namespace stem {

// Threads: any. Bounded by its users, who set one timer per outstanding call.
class Timers {
 public:
  using Id = std::pair<Deadline::Clock::time_point, uint64_t>;

  Timers() = default;
  ~Timers();
  Timers(const Timers&) = delete;
  Timers& operator=(const Timers&) = delete;

  // Runs `expire` on the timer thread at `deadline`. After Stop it never runs.
  Id At(const Deadline& deadline, std::function<void()> expire);
  // Forgets a timer, if it has not begun to run.
  void Cancel(const Id& id);
  // Waits for the timer that runs now, forgets all others. Not from a timer.
  void Stop();

 private:
  void Run();

  Mutex mutex_;
  CondVar changed_;
  std::map<Id, std::function<void()>> timers_ ABSL_GUARDED_BY(mutex_);
  // When the thread wakes next by itself: an earlier timer must wake it, a later one need not.
  Deadline::Clock::time_point wakes_at_ ABSL_GUARDED_BY(mutex_) = Deadline::Clock::time_point::max();
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
