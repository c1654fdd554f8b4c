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
  FakeDriver() : fd_(eventfd(0, EFD_NONBLOCK)) {}
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
    return true;
  }
  int wake_fd() const override { return fd_; }
  std::chrono::steady_clock::time_point NextDeadline() const override {
    MutexLock lock(mutex_);
    return deadline_;
  }

 private:
  const int fd_;
  mutable Mutex mutex_;
  CondVar changed_;
  int events_ ABSL_GUARDED_BY(mutex_) = 0;
  int handled_ ABSL_GUARDED_BY(mutex_) = 0;
  int refused_arms_ ABSL_GUARDED_BY(mutex_) = 0;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
  bool event_before_arm_ ABSL_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point deadline_ ABSL_GUARDED_BY(mutex_) =
      std::chrono::steady_clock::time_point::max();
};

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
