#include "services/console/answer_cache.h"

#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

TEST(AnswerCacheTest, AnswerIsKeptForATimeAndErrorsAreNot) {
  AnswerCache cache(absl::Hours(1));
  int asked = 0;
  const auto ask = [&]() -> absl::StatusOr<std::string> { return absl::StrCat("answer ", ++asked); };
  EXPECT_FALSE(cache.Get("a", [] { return absl::StatusOr<std::string>(absl::UnavailableError("not now")); }).ok());
  EXPECT_EQ(*cache.Get("a", ask), "answer 1");
  EXPECT_EQ(*cache.Get("a", ask), "answer 1");
  EXPECT_EQ(*cache.Get("b", ask), "answer 2");
  AnswerCache forgetful(-absl::Seconds(1));
  EXPECT_EQ(*forgetful.Get("a", ask), "answer 3");
  EXPECT_EQ(*forgetful.Get("a", ask), "answer 4");
}

TEST(AnswerCacheTest, ManyWhoAskAtOnceAskOnce) {
  AnswerCache cache(absl::Hours(1));
  std::atomic<int> asked{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      EXPECT_EQ(*cache.Get("a", [&]() -> absl::StatusOr<std::string> {
        ++asked;
        std::this_thread::yield();
        return std::string("answer");
      }), "answer");
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(asked, 1);
}

TEST(AnswerCacheTest, WhoWaitedForAnErrorIsToldItAndDoesNotAskAgain) {
  AnswerCache cache(absl::Hours(1));
  std::atomic<int> asked{0};
  std::atomic<bool> second_comes{false};
  const auto fail = [&]() -> absl::StatusOr<std::string> {
    ++asked;
    while (!second_comes) std::this_thread::yield();
    absl::SleepFor(absl::Milliseconds(100));  // until it waits
    return absl::DeadlineExceededError("slow");
  };
  std::thread first([&] { EXPECT_FALSE(cache.Get("a", fail).ok()); });
  while (asked == 0) std::this_thread::yield();
  std::thread second([&] {
    second_comes = true;
    EXPECT_FALSE(cache.Get("a", fail).ok());
  });
  first.join();
  second.join();
  EXPECT_EQ(asked, 1);
  EXPECT_FALSE(cache.Get("a", fail).ok()) << "an error is not kept";
  EXPECT_EQ(asked, 2);
}

TEST(AnswerCacheTest, ItIsBoundedHoweverManyQuestionsThereAre) {
  AnswerCache cache(absl::Hours(1));
  for (int i = 0; i < 10'000; ++i) {
    EXPECT_EQ(*cache.Get(absl::StrCat(i), [i]() -> absl::StatusOr<std::string> { return absl::StrCat("answer ", i); }), absl::StrCat("answer ", i));
  }
}

}  // namespace
}  // namespace stem
