#include "storage/spill/stem_order.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/spill_block.h"

namespace stem {
namespace {

SpillWrite WriteOf(uint64_t number, std::optional<uint64_t> parent) {
  SpillWrite write;
  write.meta.name = SpillBlock::NameOf(number);
  if (parent.has_value()) write.meta.parent = SpillBlock::NameOf(*parent).key;
  return write;
}

TEST(StemOrder, LeafFirstBecomesRootFirst) {
  const std::vector<SpillWrite> writes = {WriteOf(3, 2), WriteOf(2, 1), WriteOf(1, 0), WriteOf(0, {})};
  EXPECT_EQ(StemOrder(writes), (std::vector<size_t>{3, 2, 1, 0}));
}

TEST(StemOrder, TwoStemsThatCameMixedLieApart) {
  const std::vector<SpillWrite> writes = {WriteOf(11, 10), WriteOf(21, 20), WriteOf(12, 11), WriteOf(22, 21)};
  EXPECT_EQ(StemOrder(writes), (std::vector<size_t>{0, 2, 1, 3}));
}

TEST(StemOrder, BranchesFollowTheirTrunk) {
  const std::vector<SpillWrite> writes = {WriteOf(2, 1), WriteOf(5, 1), WriteOf(1, {}), WriteOf(3, 2)};
  EXPECT_EQ(StemOrder(writes), (std::vector<size_t>{2, 0, 3, 1}));
}

TEST(StemOrder, EveryBlockIsThereOnceEvenOfParentsThatGoInARing) {
  const std::vector<SpillWrite> writes = {WriteOf(1, 2), WriteOf(2, 1), WriteOf(3, 3), WriteOf(4, {})};
  std::vector<size_t> order = StemOrder(writes);
  std::ranges::sort(order);
  EXPECT_EQ(order, (std::vector<size_t>{0, 1, 2, 3}));
  EXPECT_TRUE(StemOrder({}).empty());
}

}  // namespace
}  // namespace stem
