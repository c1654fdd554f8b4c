#include "services/directory/intents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: keys

constexpr absl::Duration kMilli = absl::Milliseconds(1);

class IntentsTest : public ::testing::Test {
 protected:
  // Somebody who asks, and what he is told.
  struct Asker {
    std::optional<IntentVerdict> told;
    int times = 0;
    uint64_t ticket = 0;
  };

  IntendCall Call(const std::string& node, uint64_t first, uint64_t count, int wait_ms = 0) {
    return {.space = SpaceOf(1), .keys = KeysOf(first, count), .requester = node, .duration = 100 * kMilli, .wait = wait_ms * kMilli};
  }
  std::shared_ptr<Asker> Ask(const IntendCall& call) {
    auto asker = std::make_shared<Asker>();
    const Intents::Outcome outcome = intents_.Intend(call, now_, [asker](const IntentVerdict& verdict) {
      asker->told = verdict;
      ++asker->times;
    });
    if (outcome.verdict.has_value()) asker->told = outcome.verdict;
    asker->ticket = outcome.ticket;
    return asker;
  }
  void Announce(uint64_t first, uint64_t count) { intents_.OnAdded(SpaceOf(1), PackKeys(KeysOf(first, count))); }
  std::optional<absl::Duration> Left(uint64_t key) { return intents_.LeftFor({SpaceOf(1), KeyOf(key)}, now_); }

  absl::Time now_ = absl::UnixEpoch();
  Intents intents_;
};

TEST_F(IntentsTest, FirstIsGrantedOthersAreToldWhoAndHowLong) {
  EXPECT_FALSE(intents_.live());
  EXPECT_TRUE(Ask(Call("a", 0, 10))->told->granted);
  EXPECT_TRUE(intents_.live());
  now_ += 30 * kMilli;
  const auto late = Ask(Call("b", 0, 12));
  EXPECT_FALSE(late->told->granted);
  EXPECT_EQ(late->told->left, 70 * kMilli);
  EXPECT_EQ(late->told->holder, "a");
  EXPECT_FALSE(Ask(Call("a", 3, 1))->told->granted) << "another session of the same node computes it, too";
  EXPECT_TRUE(Ask(Call("b", 10, 2))->told->granted) << "what is beyond is free";
  IntendCall elsewhere = Call("b", 0, 10);
  elsewhere.space = SpaceOf(2);
  EXPECT_TRUE(Ask(elsewhere)->told->granted);
  EXPECT_EQ(Left(3), 70 * kMilli);
  EXPECT_EQ(Left(12), std::nullopt);
}

TEST_F(IntentsTest, LastKeyAnnouncedAnswersAllWhoWait) {
  Ask(Call("a", 0, 10));
  const auto one = Ask(Call("b", 0, 10, 1000));
  const auto longer = Ask(Call("c", 0, 15, 1000));
  Announce(0, 9);
  EXPECT_FALSE(one->told.has_value() || longer->told.has_value());
  EXPECT_EQ(Left(8), std::nullopt) << "it is there";
  EXPECT_TRUE(Left(9).has_value());
  Announce(9, 1);
  for (const auto& each : {one, longer}) {
    EXPECT_FALSE(each->told->granted);
    EXPECT_EQ(each->told->left, absl::ZeroDuration());
    EXPECT_EQ(each->times, 1);
  }
  EXPECT_FALSE(intents_.live());
  EXPECT_TRUE(Ask(Call("c", 10, 5))->told->granted);
}

TEST_F(IntentsTest, SharedPrefixIsNotWaitedForBeyondItsEnd) {
  Ask(Call("a", 0, 10));
  IntendCall shares = Call("b", 0, 4, 1000);
  shares.keys.push_back(KeyOf(77));  // then their prompts differ
  const auto waiter = Ask(shares);
  Announce(0, 3);
  EXPECT_FALSE(waiter->told.has_value());
  Announce(3, 1);
  EXPECT_TRUE(waiter->told.has_value());
  EXPECT_TRUE(intents_.live());
  const auto late = Ask(shares);
  EXPECT_FALSE(late->told->granted) << "its match is outdated";
  EXPECT_EQ(late->told->left, absl::ZeroDuration());
}

TEST_F(IntentsTest, TimeLimitEndsAnIntentAndAWait) {
  Ask(Call("a", 0, 10));
  const auto patient = Ask(Call("b", 0, 10, 1000));
  const auto hasty = Ask(Call("c", 0, 10, 40));
  EXPECT_EQ(intents_.Expire(now_), now_ + 40 * kMilli);
  now_ += 40 * kMilli;
  EXPECT_EQ(intents_.Expire(now_), now_ + 60 * kMilli);
  EXPECT_EQ(hasty->told->left, 60 * kMilli);
  EXPECT_FALSE(patient->told.has_value());
  now_ += 60 * kMilli;
  EXPECT_EQ(intents_.Expire(now_), absl::InfiniteFuture());
  EXPECT_EQ(patient->told->left, absl::ZeroDuration());
  EXPECT_TRUE(Ask(Call("b", 0, 10))->told->granted);
}

TEST_F(IntentsTest, GivenUpOrGoneFreesTheKeys) {
  Ask(Call("a", 0, 10));
  auto waiter = Ask(Call("b", 0, 10, 1000));
  IntendCall up = Call("b", 0, 10);
  up.duration = absl::ZeroDuration();
  Ask(up);
  EXPECT_FALSE(waiter->told.has_value()) << "only its own node can give it up";
  up.requester = "a";
  Ask(up);
  EXPECT_TRUE(waiter->told.has_value());
  EXPECT_TRUE(Ask(Call("b", 0, 10))->told->granted);
  waiter = Ask(Call("c", 0, 10, 1000));
  intents_.OnGone("a");
  EXPECT_FALSE(waiter->told.has_value());
  intents_.OnGone("b");
  EXPECT_TRUE(waiter->told.has_value());
  waiter = Ask(Call("c", 0, 10, 1000));
  EXPECT_TRUE(waiter->told->granted);
}

TEST_F(IntentsTest, WithdrawnWaiterIsNotAnswered) {
  Ask(Call("a", 0, 2));
  const auto waiter = Ask(Call("b", 0, 2, 1000));
  EXPECT_TRUE(intents_.Withdraw(waiter->ticket));
  EXPECT_FALSE(intents_.Withdraw(waiter->ticket));
  Announce(0, 2);
  EXPECT_EQ(waiter->times, 0);
  const Intents::Counts counts = intents_.counts();
  EXPECT_EQ(counts.intents + counts.claims + counts.waiters, 0u);
}

TEST_F(IntentsTest, FullTableGrantsAndForgets) {
  for (uint64_t i = 0; i < Intents::kIntentsMax; ++i) Ask(Call("a", 10 * i, 1));
  EXPECT_TRUE(Ask(Call("a", 5, 1))->told->granted);
  EXPECT_EQ(intents_.counts().intents, Intents::kIntentsMax);
  EXPECT_TRUE(Ask(Call("b", 5, 1))->told->granted) << "best effort";
  intents_.EndAll();
  for (uint64_t i = 0; i < 4; ++i) Ask(Call("a", 65536 * i, 65536));
  EXPECT_EQ(intents_.counts().claims, Intents::kClaimsMax);
  EXPECT_TRUE(Ask(Call("a", 1 << 20, 1))->told->granted);
  EXPECT_EQ(intents_.counts().claims, Intents::kClaimsMax);
}

// Everybody is told exactly once, whichever way an intent ends.
TEST_F(IntentsTest, WaitersAreAnsweredOnceUnderAllThatCanHappenAtOnce) {
  constexpr int kRounds = 2000;
  std::atomic<int> waits{0};
  std::atomic<int> answers{0};
  const auto asker = [&](const std::string& node) {
    for (int i = 0; i < kRounds; ++i) {
      const Intents::Outcome outcome =
          intents_.Intend(Call(node, 0, 3, 1), now_ + i * kMilli, [&](const IntentVerdict&) { ++answers; });
      if (outcome.verdict.has_value()) continue;
      ++waits;
      if (i % 3 == 0 && intents_.Withdraw(outcome.ticket)) ++answers;
    }
  };
  std::thread a(asker, "a");
  std::thread b(asker, "b");
  std::thread announcer([&] {
    for (int i = 0; i < kRounds; ++i) {
      if (intents_.live()) Announce(0, 3);
      if (i % 7 == 0) intents_.OnGone("a");
      intents_.Expire(now_ + i * kMilli);
    }
  });
  a.join();
  b.join();
  announcer.join();
  intents_.EndAll();
  EXPECT_EQ(answers, waits);
  EXPECT_EQ(intents_.counts().waiters, 0u);
}

}  // namespace
}  // namespace stem
