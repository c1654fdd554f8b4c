// What tasks and timers hold is let go of when no lock is held: it may be Python's, or call back.
#include "client/executor.h"

#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>

#include "absl/time/clock.h"
#include "client/timers.h"

namespace stem {
namespace {

// Runs `at_end` when the last copy of a closure that holds it is destroyed.
std::shared_ptr<void> AtEnd(std::function<void()> at_end) {
  return {nullptr, [at_end = std::move(at_end)](void*) { at_end(); }};
}

bool Ended(std::promise<void>& ended) { return ended.get_future().wait_for(std::chrono::seconds(20)) == std::future_status::ready; }

TEST(ExecutorTest, WhatATaskHeldMayPostTheNext) {
  Executor executor;
  std::promise<void> ended;
  auto held = AtEnd([&] { EXPECT_TRUE(executor.Post([&] { ended.set_value(); })); });
  ASSERT_TRUE(executor.Post([held = std::move(held)] {}));
  EXPECT_TRUE(Ended(ended));
}

TEST(TimersTest, WhatATimerHeldMaySetTheNext) {
  Timers timers;
  std::promise<void> ended;
  auto held = AtEnd([&] { timers.At(Deadline(absl::Now()), [&] { ended.set_value(); }); });
  timers.At(Deadline(absl::Now()), [held = std::move(held)] {});
  EXPECT_TRUE(Ended(ended));
}

TEST(TimersTest, WhatACancelledTimerHeldMaySetTheNext) {
  Timers timers;
  std::promise<void> ended;
  auto held = AtEnd([&] { timers.At(Deadline(absl::Now()), [&] { ended.set_value(); }); });
  timers.Cancel(timers.At(Deadline(absl::Now() + absl::Hours(1)), [held = std::move(held)] {}));
  EXPECT_TRUE(Ended(ended));
}

}  // namespace
}  // namespace stem
