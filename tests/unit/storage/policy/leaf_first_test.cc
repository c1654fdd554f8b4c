#include "storage/policy/leaf_first.h"

#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/policy/recency.h"
#include "tests/support/policy_driver.h"

namespace stem {
namespace {

using ::testing::ElementsAre;

TEST(LeafFirstTest, ChainLeavesFromItsEnd) {
  PolicyDriver tier(std::make_unique<LeafFirst>(std::make_unique<LruPolicy>()), 4);
  tier.Request({1, 2, 3, 4});
  EXPECT_THAT(tier.Request({8, 9}), ElementsAre(4, 3));
  EXPECT_THAT(tier.Request({7}), ElementsAre(2)) << "1 has no child left, but it is 2's turn first";
  EXPECT_THAT(tier.Request({6}), ElementsAre(1));
}

TEST(LeafFirstTest, LeastRecentBranchBelowTheVictimGoesFirst) {
  PolicyDriver tier(std::make_unique<LeafFirst>(std::make_unique<FifoPolicy>()), 5);
  tier.Request({1, 2, 3});
  tier.Request({1, 4, 5});
  tier.Request({1, 2, 3});
  EXPECT_THAT(tier.Request({9}), ElementsAre(5)) << "below 1, which is first in, branch 4 was used before branch 2";
}

TEST(LeafFirstTest, DeferredLeafLetsOtherChainsGo) {
  PolicyDriver tier(std::make_unique<LeafFirst>(std::make_unique<LruPolicy>()), 4);
  tier.Request({1, 2});
  tier.Request({3, 4});
  tier.policy().Defer(*tier.policy().Victim());
  EXPECT_THAT(tier.Request({5}), ElementsAre(4)) << "chain 1, 2 is in use";
}

}  // namespace
}  // namespace stem
