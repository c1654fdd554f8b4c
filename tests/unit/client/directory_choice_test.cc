#include "client/directory_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr absl::Duration kMilli = absl::Milliseconds(1);

class DirectoryChoiceTest : public ::testing::Test {
 protected:
  DirectoryChoiceTest() { choice_.Set(std::vector<std::string>{"a:1", "b:1", "c:1"}); }

  absl::Time now_ = absl::UnixEpoch();
  DirectoryChoice choice_{"here"};
};

TEST_F(DirectoryChoiceTest, OwnHostComesFirstThenTheQuickestThenTheListsOrder) {
  EXPECT_THAT(choice_.Order(now_), ElementsAre("a:1", "b:1", "c:1"));
  choice_.OnProbed("c:1", kMilli, now_);
  choice_.OnProbed("b:1", 4 * kMilli, now_);
  EXPECT_THAT(choice_.Order(now_), ElementsAre("c:1", "b:1", "a:1")) << "not probed is farthest";
  choice_.OnProbed("a:1", 1.01 * kMilli, now_);
  EXPECT_THAT(choice_.Order(now_), ElementsAre("a:1", "c:1", "b:1")) << "noise does not count";
  choice_.Set(std::vector<std::string>{"a:1", "b:1", "c:1", "here:1", "127.0.0.1:9"});
  EXPECT_THAT(choice_.Order(now_), ElementsAre("here:1", "127.0.0.1:9", "a:1", "c:1", "b:1"));
}

TEST_F(DirectoryChoiceTest, FailedComesLastAndAfterThreeFailuresNotUntilItsTime) {
  choice_.OnFailure("a:1", now_);
  EXPECT_THAT(choice_.Order(now_), ElementsAre("b:1", "c:1", "a:1"));
  choice_.OnFailure("a:1", now_);
  choice_.OnFailure("a:1", now_);
  EXPECT_THAT(choice_.Order(now_ + 199 * kMilli), ElementsAre("b:1", "c:1"));
  EXPECT_THAT(choice_.Order(now_ + 200 * kMilli), ElementsAre("b:1", "c:1", "a:1"));
  for (int i = 0; i < 100; ++i) choice_.OnFailure("a:1", now_);
  EXPECT_THAT(choice_.Order(now_ + absl::Seconds(1)), ElementsAre("b:1", "c:1", "a:1")) << "never longer than a second";
  choice_.OnAnswer("a:1", kMilli, now_);
  EXPECT_THAT(choice_.Order(now_), ElementsAre("a:1", "b:1", "c:1"));
}

TEST_F(DirectoryChoiceTest, StaleComesAfterExactForASecond) {
  choice_.OnTruth("a:1", false, now_);
  EXPECT_FALSE(choice_.MayBeExact("a:1", now_));
  EXPECT_THAT(choice_.Order(now_), ElementsAre("b:1", "c:1", "a:1"));
  EXPECT_THAT(choice_.Order(now_ + absl::Seconds(1)), ElementsAre("a:1", "b:1", "c:1"));
  choice_.OnTruth("a:1", true, now_);
  EXPECT_TRUE(choice_.MayBeExact("a:1", now_));
}

TEST_F(DirectoryChoiceTest, ProbesAreDueOnceUntilTheyAreAnswered) {
  EXPECT_THAT(choice_.TakeProbes(now_), UnorderedElementsAre("a:1", "b:1", "c:1"));
  EXPECT_THAT(choice_.TakeProbes(now_), IsEmpty());
  for (const char* address : {"a:1", "b:1"}) choice_.OnProbed(address, kMilli, now_);
  EXPECT_THAT(choice_.TakeProbes(now_ + absl::Seconds(1)), ElementsAre("c:1")) << "nothing was heard of it";
  choice_.OnFailure("c:1", now_);
  EXPECT_THAT(choice_.TakeProbes(now_ + 49 * kMilli), IsEmpty());
  EXPECT_THAT(choice_.TakeProbes(now_ + 50 * kMilli), ElementsAre("c:1")) << "down, and its time is over";
  choice_.OnTruth("b:1", false, now_ + absl::Seconds(2));
  EXPECT_THAT(choice_.TakeProbes(now_ + absl::Seconds(3)), UnorderedElementsAre("b:1", "c:1")) << "it may be exact again";
  choice_.Set(std::vector<std::string>{"a:1"});
  EXPECT_THAT(choice_.TakeProbes(now_ + absl::Hours(1)), IsEmpty()) << "there is nothing to choose";
}

TEST_F(DirectoryChoiceTest, PatienceFollowsWhatIsUsual) {
  EXPECT_EQ(choice_.Patience("a:1"), 50 * kMilli);
  choice_.OnAnswer("a:1", absl::Microseconds(100), now_);
  EXPECT_EQ(choice_.Patience("a:1"), 10 * kMilli);
  for (int i = 0; i < 100; ++i) choice_.OnAnswer("a:1", 5 * kMilli, now_);
  EXPECT_GT(choice_.Patience("a:1"), 39 * kMilli);
}

TEST_F(DirectoryChoiceTest, OneRouteMeetsInOnePlaceAndRoutesSpread) {
  DirectoryChoice other{"elsewhere"};
  other.Set(std::vector<std::string>{"c:1", "a:1", "b:1"});
  other.OnProbed("b:1", kMilli, now_);
  other.OnTruth("a:1", false, now_);
  std::map<std::string, int> firsts;
  for (uint64_t i = 0; i < 300; ++i) {
    const uint64_t route = i * 0x9E3779B97F4A7C15ULL;
    EXPECT_EQ(choice_.OrderFor(route, now_), other.OrderFor(route, now_));
    ++firsts[choice_.OrderFor(route, now_)[0]];
  }
  EXPECT_EQ(firsts.size(), 3u);
  for (const auto& [address, count] : firsts) EXPECT_GT(count, 50) << address;
  choice_.OnFailure("a:1", now_);
  for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(choice_.OrderFor(i * 0x9E3779B97F4A7C15ULL, now_)[2], "a:1");
}

TEST_F(DirectoryChoiceTest, ChangedListKeepsWhatIsKnownOfThoseThatStay) {
  choice_.OnTruth("a:1", false, now_);
  choice_.OnFailure("b:1", now_);
  choice_.Set(std::vector<std::string>{"d:1", "b:1", "a:1", "d:1"});
  EXPECT_THAT(choice_.Order(now_), ElementsAre("d:1", "a:1", "b:1"));
  choice_.OnFailure("c:1", now_);  // a late result of one that left
  const std::vector<DirectoryChoice::State> status = choice_.Status(now_);
  ASSERT_EQ(status.size(), 3u);
  EXPECT_EQ(status[1].address, "b:1");
  EXPECT_TRUE(status[1].down);
  EXPECT_TRUE(status[2].stale);
}

}  // namespace
}  // namespace stem
