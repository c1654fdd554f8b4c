// Each classic policy against a short sequence worked out by hand.
#include <algorithm>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/policy/arc.h"
#include "storage/policy/belady.h"
#include "storage/policy/lfu.h"
#include "storage/policy/lrfu.h"
#include "storage/policy/recency.h"
#include "storage/policy/s3fifo.h"
#include "storage/policy/sieve.h"
#include "storage/policy/slru.h"
#include "storage/policy/wtinylfu.h"
#include "tests/support/policy_driver.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using Keys = std::vector<uint64_t>;

TEST(FifoPolicyTest, UseDoesNotSaveTheOldest) {
  PolicyDriver tier(std::make_unique<FifoPolicy>(), 3);
  EXPECT_THAT(tier.Uses({1, 2, 3, 1, 4, 5}), ElementsAre(1, 2));
}

TEST(LruPolicyTest, LeastRecentLeaves) {
  PolicyDriver tier(std::make_unique<LruPolicy>(), 3);
  EXPECT_THAT(tier.Uses({1, 2, 3, 1, 4, 5}), ElementsAre(2, 3));
}

TEST(LruPolicyTest, DeferredComesLast) {
  PolicyDriver tier(std::make_unique<LruPolicy>(), 3);
  tier.Uses({1, 2, 3});
  tier.policy().Defer(tier.held().at(1));
  EXPECT_EQ(tier.Evict(), 2u);
}

TEST(LfuPolicyTest, LeastUsedLeavesAndCountsOutliveEviction) {
  PolicyDriver tier(std::make_unique<LfuPolicy>(2), 2);
  EXPECT_THAT(tier.Uses({1, 1, 2, 2, 3}), ElementsAre(3)) << "used once, the others twice";
  EXPECT_THAT(tier.Uses({3}), ElementsAre(1)) << "its second use: now the least recent of three equals leaves";
}

TEST(LrfuPolicyTest, LongHalfLifeCountsUsesAndShortHalfLifeRecency) {
  PolicyDriver often(std::make_unique<LrfuPolicy>(1e6), 2);
  EXPECT_THAT(often.Uses({1, 1, 1, 2, 3}), ElementsAre(2));
  PolicyDriver recent(std::make_unique<LrfuPolicy>(0.1), 2);
  EXPECT_THAT(recent.Uses({1, 1, 1, 2, 3}), ElementsAre(1));
}

TEST(SlruPolicyTest, UsedTwiceIsProtectedAndTheProtectedPartIsBounded) {
  PolicyDriver tier(std::make_unique<SlruPolicy>(5), 5);  // four of them protected
  EXPECT_THAT(tier.Uses({1, 1, 2, 3, 4, 5, 6}), ElementsAre(2)) << "1 is protected";
  EXPECT_THAT(tier.Uses({3, 4, 5, 6, 7}), ElementsAre(1)) << "five were protected, so 1 went back on probation";
}

TEST(S3FifoPolicyTest, UnusedLeavesTheSmallQueueAndItsGhostComesBackToMain) {
  PolicyDriver tier(std::make_unique<S3FifoPolicy>(10), 10);  // small: 1
  EXPECT_THAT(tier.Uses({1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}), ElementsAre(2)) << "1 was used again: to main";
  EXPECT_THAT(tier.Uses({2}), ElementsAre(3)) << "a ghost: to main, while the small queue goes on";
  EXPECT_THAT(tier.Uses({12, 13, 14, 15, 16, 17, 18, 19}), ElementsAre(4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_TRUE(tier.holds(1));
  EXPECT_TRUE(tier.holds(2));
}

TEST(SievePolicyTest, HandSparesTheUsedOnceAndGoesOnWhereItWas) {
  PolicyDriver tier(std::make_unique<SievePolicy>(), 3);
  tier.Uses({1, 2, 3, 1, 3});
  EXPECT_THAT(tier.Uses({4}), ElementsAre(2)) << "1 is spared, and its mark gone";
  EXPECT_THAT(tier.Uses({5}), ElementsAre(4)) << "3 is spared; the hand is past 1";
  EXPECT_THAT(tier.Uses({6}), ElementsAre(5));
  EXPECT_THAT(tier.Uses({7}), ElementsAre(6));
  EXPECT_TRUE(tier.holds(1));
}

TEST(WTinyLfuPolicyTest, NewcomerMustBeMoreFrequentThanWhatItWouldPushOut) {
  PolicyDriver tier(std::make_unique<WTinyLfuPolicy>(4), 4);  // window: 1
  tier.Uses({1, 1, 2, 2, 3, 3, 4});
  EXPECT_THAT(tier.Uses({5}), ElementsAre(4)) << "4 leaves the window, used once; 1 was used twice";
  EXPECT_THAT(tier.Uses({5, 5, 6}), ElementsAre(1)) << "5 was used three times";
}

TEST(FrequencySketchTest, CountsAndForgetsByHalving) {
  FrequencySketch sketch(16);
  for (int i = 0; i < 12; ++i) sketch.Add(7);
  EXPECT_EQ(sketch.Count(7), 12u);
  for (int i = 0; i < 10 * 16 - 12; ++i) sketch.Add(8);
  EXPECT_EQ(sketch.Count(7), 6u) << "after ten times the capacity";
}

TEST(ArcPolicyTest, GhostHitMovesTheTarget) {
  PolicyDriver tier(std::make_unique<ArcPolicy>(2), 2);
  EXPECT_THAT(tier.Uses({1, 1, 2, 3}), ElementsAre(2)) << "1 is in t2; of t1 the oldest goes";
  EXPECT_THAT(tier.Uses({2}), ElementsAre(1)) << "a ghost of t1: its target grows to 1, so t2 pays";
  EXPECT_THAT(tier.Uses({1}), ElementsAre(3)) << "a ghost of t2: the target falls back, t1 pays";
}

TEST(BeladyPolicyTest, WhatIsUsedLastLeaves) {
  const Keys trace = {1, 2, 3, 4, 2, 1, 3};
  size_t now = 0;
  const auto next = [&](uint64_t key) -> uint64_t {
    const auto it = std::find(trace.begin() + static_cast<ptrdiff_t>(now) + 1, trace.end(), key);
    return it == trace.end() ? ~uint64_t{0} : static_cast<uint64_t>(it - trace.begin());
  };
  PolicyDriver tier(std::make_unique<BeladyPolicy>(next), 2);
  Keys gone;
  for (; now < trace.size(); ++now) {
    for (const uint64_t key : tier.Uses({trace[now]})) gone.push_back(key);
  }
  EXPECT_THAT(gone, ElementsAre(3, 4, testing::_));
}

}  // namespace
}  // namespace stem
