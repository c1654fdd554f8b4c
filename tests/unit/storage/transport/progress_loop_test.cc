#include "storage/transport/progress_loop.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "absl/time/clock.h"

namespace stem {
namespace {

// A device whose events the test makes, with arm semantics as UCX has them: events since the last Step refuse it.
class FakeDriver : public ProgressDriver {
 public:
  explicit FakeDriver(bool streaming = false) : fd_(eventfd(0, EFD_NONBLOCK)), streaming_(streaming) {}
  ~FakeDriver() override { close(fd_); }

  void MakeEvent() {
    MutexLock lock(mutex_);
    ++events_;
    if (armed_) eventfd_write(fd_, 1);
  }
  void SetDeadline(std::chrono::steady_clock::time_point deadline) {
    MutexLock lock(mutex_);
    deadline_ = deadline;
  }
  void WaitHandled(int events) {
    MutexLock lock(mutex_);
    while (handled_ < events) changed_.Wait(mutex_);
  }
  void WaitExpired() {
    MutexLock lock(mutex_);
    while (deadline_ != std::chrono::steady_clock::time_point::max()) changed_.Wait(mutex_);
  }
  // Steps until the loop first went to sleep, once it has.
  int WaitStepsBeforeSleep() {
    MutexLock lock(mutex_);
    while (!slept_) changed_.Wait(mutex_);
    return steps_;
  }
  int refused_arms() {
    MutexLock lock(mutex_);
    return refused_arms_;
  }
  // An event that comes between a Step and the Arm after it.
  void MakeEventBeforeNextArm() {
    MutexLock lock(mutex_);
    event_before_arm_ = true;
  }

  bool Step() override {
    MutexLock lock(mutex_);
    eventfd_t drained = 0;
    eventfd_read(fd_, &drained);
    armed_ = false;
    if (std::chrono::steady_clock::now() >= deadline_) deadline_ = std::chrono::steady_clock::time_point::max();
    changed_.NotifyAll();
    if (!slept_) ++steps_;
    if (events_ == 0) return false;
    handled_ += events_;
    events_ = 0;
    return true;
  }
  bool Arm() override {
    MutexLock lock(mutex_);
    events_ += std::exchange(event_before_arm_, false);
    if (events_ > 0) {
      ++refused_arms_;
      return false;
    }
    armed_ = true;
    slept_ = true;
    changed_.NotifyAll();
    return true;
  }
  bool Streaming() const override { return streaming_; }
  int wake_fd() const override { return fd_; }
  std::chrono::steady_clock::time_point NextDeadline() const override {
    MutexLock lock(mutex_);
    return deadline_;
  }

 private:
  const int fd_;
  const bool streaming_;
  mutable Mutex mutex_;
  CondVar changed_;
  int events_ ABSL_GUARDED_BY(mutex_) = 0;
  int handled_ ABSL_GUARDED_BY(mutex_) = 0;
  int refused_arms_ ABSL_GUARDED_BY(mutex_) = 0;
  int steps_ ABSL_GUARDED_BY(mutex_) = 0;
  bool slept_ ABSL_GUARDED_BY(mutex_) = false;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
  bool event_before_arm_ ABSL_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point deadline_ ABSL_GUARDED_BY(mutex_) =
      std::chrono::steady_clock::time_point::max();
};

TEST(ProgressLoop, AStreamIsGlancedAtManyTimesBeforeTheLoopSleeps) {
  FakeDriver quiet;
  FakeDriver stream(true);
  const auto quiet_loop = ProgressLoop::Start(quiet, 4);
  const auto stream_loop = ProgressLoop::Start(stream, 4);
  ASSERT_TRUE(quiet_loop.ok() && stream_loop.ok());
  EXPECT_LE(quiet.WaitStepsBeforeSleep(), 2);
  EXPECT_GE(stream.WaitStepsBeforeSleep(), 50);
  stream.MakeEvent();  // and is woken from that sleep as from any
  stream.WaitHandled(1);
}

TEST(ProgressLoop, ACommandRunsWhileAStreamIsGlancedAt) {
  FakeDriver driver(true);
  const auto loop = ProgressLoop::Start(driver, 4);
  ASSERT_TRUE(loop.ok());
  for (int i = 0; i < 20; ++i) {
    driver.MakeEvent();  // begins the glances anew
    bool ran = false;
    EXPECT_TRUE((*loop)->Run([&ran] { ran = true; }).ok());
    EXPECT_TRUE(ran);
  }
}

TEST(ProgressLoop, CommandsRunInOrderOnOneThread) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 1000);
  std::vector<int> order;
  std::vector<std::thread::id> threads;
  for (int i = 0; i < 600; ++i) {
    ASSERT_TRUE(loop->Post([&, i] {
      order.push_back(i);
      threads.push_back(std::this_thread::get_id());
    }).ok());
  }
  ASSERT_TRUE(loop->Run([] {}).ok());
  ASSERT_EQ(order.size(), 600u);
  for (int i = 0; i < 600; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  for (const auto thread : threads) EXPECT_EQ(thread, threads[0]);
  EXPECT_NE(threads[0], std::this_thread::get_id());
}

TEST(ProgressLoop, AFullQueueRefuses) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 2);
  Mutex mutex;
  CondVar changed;
  bool blocked = false;
  bool go = false;
  ASSERT_TRUE(loop->Post([&] {
    MutexLock lock(mutex);
    blocked = true;
    changed.NotifyAll();
    while (!go) changed.Wait(mutex);
  }).ok());
  {
    MutexLock lock(mutex);
    while (!blocked) changed.Wait(mutex);
  }
  EXPECT_TRUE(loop->Post([] {}).ok());
  EXPECT_TRUE(loop->Post([] {}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(loop->Post([] {})));
  EXPECT_TRUE(absl::IsDeadlineExceeded(loop->Run([] {}, absl::InfinitePast())));
  {
    MutexLock lock(mutex);
    go = true;
    changed.NotifyAll();
  }
  EXPECT_TRUE(loop->Run([] {}).ok());  // waits for room
}

TEST(ProgressLoop, ARunThatMissedItsDeadlineNeverRuns) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 10);
  Mutex mutex;
  CondVar changed;
  bool go = false;
  ASSERT_TRUE(loop->Post([&] {
    MutexLock lock(mutex);
    while (!go) changed.Wait(mutex);
  }).ok());
  bool ran = false;
  EXPECT_TRUE(absl::IsDeadlineExceeded(loop->Run([&] { ran = true; }, absl::Now() + absl::Milliseconds(5))));
  {
    MutexLock lock(mutex);
    go = true;
    changed.NotifyAll();
  }
  ASSERT_TRUE(loop->Run([] {}).ok());
  EXPECT_FALSE(ran);
}

TEST(ProgressLoop, QueuedCommandsRunBeforeTheEnd) {
  FakeDriver driver;
  int ran = 0;
  auto loop = *ProgressLoop::Start(driver, 1000);
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(loop->Post([&] { ++ran; }).ok());
  loop.reset();
  EXPECT_EQ(ran, 500);
}

TEST(ProgressLoop, EventsOfTheDeviceWakeIt) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 10);
  for (int i = 1; i <= 1000; ++i) {
    driver.MakeEvent();
    driver.WaitHandled(i);
  }
}

TEST(ProgressLoop, AnEventBetweenStepAndArmIsNotSleptThrough) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 10);
  driver.MakeEventBeforeNextArm();
  ASSERT_TRUE(loop->Post([] {}).ok());
  driver.WaitHandled(1);
  EXPECT_EQ(driver.refused_arms(), 1);
}

TEST(ProgressLoop, ADeadlineOfTheDriverWakesIt) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 10);
  ASSERT_TRUE(loop->Run([&] {
    driver.SetDeadline(std::chrono::steady_clock::now() + std::chrono::milliseconds(3));
  }).ok());
  driver.WaitExpired();
}

TEST(ProgressLoop, CommandsFromManyThreadsAllRun) {
  FakeDriver driver;
  auto loop = *ProgressLoop::Start(driver, 4);
  int ran = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 500; ++j) ASSERT_TRUE(loop->Run([&] { ++ran; }).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ran, 2000);
}

}  // namespace
}  // namespace stem
