// The one owner thread of a UCX worker. Others hand it closures through a bounded queue; it sleeps in epoll when the
// driver has nothing to do, so an idle node costs no core (style: busy polling on two cores is the scheduler's p99).
// While much is on its way it glances instead: it sleeps a moment that nothing but a command ends.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/mutex.h"

namespace stem {

// What the loop drives. Called on the loop's thread only, but for wake_fd.
class ProgressDriver {
 public:
  virtual ~ProgressDriver() = default;
  // Does what can be done without waiting; true when it did something, and is then called again.
  virtual bool Step() = 0;
  // Promises that wake_fd becomes readable when there is work; false when there is some already.
  virtual bool Arm() = 0;
  virtual int wake_fd() const = 0;
  // True while so much is on its way that being woken for each piece would cost more than to look every now and then.
  virtual bool Streaming() const { return false; }
  // When Step has to run even if nothing comes; max() = never.
  virtual std::chrono::steady_clock::time_point NextDeadline() const = 0;
};

class ProgressLoop {
 public:
  // Starts the thread. `driver` must outlive the loop. Unavailable: the system has no descriptors left.
  static absl::StatusOr<std::unique_ptr<ProgressLoop>> Start(ProgressDriver& driver, size_t commands_max);

  // Runs the commands that are queued, then ends the thread.
  ~ProgressLoop();
  ProgressLoop(const ProgressLoop&) = delete;
  ProgressLoop& operator=(const ProgressLoop&) = delete;

  // Queues `command`. ResourceExhausted: `commands_max` are queued.
  absl::Status Post(std::function<void()> command);

  // Runs `command` on the thread and returns after it ran; waits for room in the queue. Not from the thread itself.
  // DeadlineExceeded: it had not begun by then, and will not.
  absl::Status Run(std::function<void()> command, absl::Time deadline = absl::InfiniteFuture());

  // Processor time that the thread has used.
  absl::Duration CpuTime() const;

 private:
  ProgressLoop(ProgressDriver& driver, size_t commands_max, int epoll_fd, int event_fd);
  void Main();
  bool RunCommands();
  void Sleep();
  void Glance();

  ProgressDriver& driver_;
  const size_t commands_max_;
  const int epoll_fd_;
  const int event_fd_;
  Mutex mutex_;
  CondVar room_;
  std::deque<std::function<void()>> commands_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace stem
