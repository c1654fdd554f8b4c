#include "services/node/announce/chain_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: keys

BlockChange ChangeOf(uint64_t block, std::optional<uint64_t> parent, uint64_t space = 1) {
  BlockChange change;
  change.name = {.space = SpaceOf(space), .key = KeyOf(block)};
  if (parent) change.parent = KeyOf(*parent);
  change.residence = Residence::kDram;
  return change;
}

TEST(ChainOrderTest, ShuffledTreeComesOutParentFirstWithOneBreakPerBranch) {
  std::mt19937_64 random(7);
  std::vector<BlockChange> changes;
  std::vector<uint64_t> tips;
  constexpr uint64_t kBlocks = 2000;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    const bool start = block % 500 == 0;
    // Mostly at the tip of a chain, now and then in its middle.
    const uint64_t parent = start ? 0 : random() % 20 == 0 ? random() % block : block - 1;
    changes.push_back(ChangeOf(block, start ? std::nullopt : std::optional(parent)));
  }
  std::vector<uint64_t> children(kBlocks, 0);
  for (const BlockChange& change : changes) {
    for (uint64_t block = 0; change.parent && block < kBlocks; ++block) children[block] += KeyOf(block) == *change.parent ? 1 : 0;
  }
  uint64_t leaves = 0;
  for (const uint64_t count : children) leaves += count == 0 ? 1 : 0;
  std::shuffle(changes.begin(), changes.end(), random);

  const std::vector<BlockChange> ordered = InChainOrder(changes);
  ASSERT_EQ(ordered.size(), kBlocks);
  std::set<BlockKey> seen;
  uint64_t runs = 0;
  for (size_t i = 0; i < ordered.size(); ++i) {
    const BlockChange& change = ordered[i];
    EXPECT_TRUE(!change.parent || seen.contains(*change.parent));
    EXPECT_TRUE(seen.insert(change.name.key).second);
    runs += i == 0 || !change.parent || *change.parent != ordered[i - 1].name.key ? 1 : 0;
  }
  EXPECT_EQ(runs, leaves) << "a chain is broken only where it must be";
}

TEST(ChainOrderTest, ParentThatIsNotThereOrOfAnotherNamespaceStartsAChain) {
  const auto ordered = InChainOrder({ChangeOf(5, 4), ChangeOf(4, 3, /*space=*/2), ChangeOf(6, 5)});
  ASSERT_EQ(ordered.size(), 3u);
  const auto at = [&](uint64_t block) {
    return std::find_if(ordered.begin(), ordered.end(), [&](const BlockChange& each) { return each.name.key == KeyOf(block); });
  };
  EXPECT_EQ(at(6) - at(5), 1);
  EXPECT_TRUE(InChainOrder({}).empty());
}

}  // namespace
}  // namespace stem
