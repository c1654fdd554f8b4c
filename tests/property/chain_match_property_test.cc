// Match and Score against the definition of a stem, tried length by length: full parts everywhere, windows and states at
// the end, each block on one node. Replay one seed with --gtest_random_seed=SEED.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "services/directory/chain_match.h"
#include "tests/support/announce.h"
#include "tests/support/index_lookup.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: keys, one block at a time

using Random = std::mt19937_64;

struct World {
  explicit World(uint64_t seed) : random(seed) {
    blocks = 1 + random() % (random() % 3 == 0 ? 400 : 12);
    const size_t nodes = 1 + random() % (random() % 4 == 0 ? 40 : 4);
    for (size_t node = 0; node < nodes; ++node) {
      auto address = std::make_shared<v1::NodeAddress>();
      address->set_node(absl::StrCat("n", 1000 + node));
      view.nodes.push_back({.address = address,
                            .host = static_cast<uint32_t>(node / 2),
                            .trust_percent = static_cast<uint32_t>(random() % 101),
                            .weight = static_cast<uint32_t>(1 + random() % 100)});
      slots.push_back(*index.OpenSlot());
      view.slots.resize(slots.back().slot + size_t{1});
      view.slots[slots.back().slot] = {.use = MemberView::Use::kCounts, .node = static_cast<uint16_t>(node)};
    }
    constexpr std::array<uint32_t, 6> kWindows = {0, 0, 1, 2, 5, 130};
    const uint64_t parts = 1 + random() % 3;
    for (uint32_t id = 0; id < parts; ++id) {
      call.parts.push_back({.id = id, .window_blocks = kWindows[random() % kWindows.size()]});
    }
    call.space = SpaceOf(1);
    call.keys = KeysOf(0, blocks);
    if (random() % 2 == 0) call.requester = absl::StrCat("n", 1000 + random() % (nodes + 1));
    Fill();
  }

  // Mostly leading runs, as nodes hold them, with holes in a few.
  void Fill() {
    tiers.assign(view.nodes.size(), std::vector<std::vector<int>>(call.parts.size(), std::vector<int>(blocks, 0)));
    for (size_t node = 0; node < view.nodes.size(); ++node) {
      for (size_t part = 0; part < call.parts.size(); ++part) {
        const size_t first = call.parts[part].window_blocks != 0 && random() % 2 == 0 ? random() % blocks : 0;
        const size_t end = random() % 3 == 0 ? blocks : random() % (blocks + 1);
        const bool holes = random() % 3 == 0;
        int tier = static_cast<int>(1 + random() % 3);
        for (size_t block = first; block < end; ++block) {
          if (random() % 16 == 0) tier = static_cast<int>(1 + random() % 3);
          if (holes && random() % 8 == 0) continue;
          tiers[node][part][block] = tier;
          AddBlock(index, slots[node], IndexedAs({.space = call.space, .key = PartKey(call.keys[block], call.parts[part].id)}),
                   static_cast<v1::Tier>(tier));
        }
      }
    }
  }

  bool Serves(size_t node, size_t block, size_t stem) const {
    for (size_t part = 0; part < call.parts.size(); ++part) {
      const size_t window = call.parts[part].window_blocks;
      if ((window == 0 || block + window >= stem) && tiers[node][part][block] == 0) return false;
    }
    return true;
  }
  int SlowestTier(size_t node, size_t block, size_t stem) const {
    int slowest = 0;
    for (size_t part = 0; part < call.parts.size(); ++part) {
      const size_t window = call.parts[part].window_blocks;
      if (window == 0 || block + window >= stem) slowest = std::max(slowest, tiers[node][part][block]);
    }
    return slowest;
  }
  // The longest stem of these nodes.
  size_t Stem(const std::vector<size_t>& nodes) const {
    for (size_t stem = blocks; stem > 0; --stem) {
      bool whole = true;
      for (size_t block = 0; whole && block < stem; ++block) {
        whole = std::any_of(nodes.begin(), nodes.end(), [&](size_t node) { return Serves(node, block, stem); });
      }
      if (whole) return stem;
    }
    return 0;
  }

  Random random;
  size_t blocks = 0;
  PrefixIndex index{{.bytes_max = 64 << 20, .ghosts_max = 64}};
  MemberView view;
  std::vector<SlotHandle> slots;
  MatchCall call;
  std::vector<std::vector<std::vector<int>>> tiers;  // node, part, block; 0 = not held
};

void Check(uint64_t seed) {
  const World world(seed);
  std::vector<size_t> others;
  for (size_t node = 0; node < world.view.nodes.size(); ++node) {
    if (world.view.nodes[node].address->node() != world.call.requester) others.push_back(node);
  }
  const ChainMatch match = MatchChain(world.index, world.view, world.call);
  ASSERT_EQ(match.matched_blocks, others.empty() ? 0 : world.Stem(others));
  uint32_t next = 0;
  for (const ChainRun& run : match.runs) {
    ASSERT_EQ(run.first, next);
    ASSERT_NE(world.view.nodes[run.node].address->node(), world.call.requester);
    for (uint32_t block = run.first; block < run.first + run.count; ++block) {
      ASSERT_TRUE(world.Serves(run.node, block, match.matched_blocks)) << block;
      const int slowest = world.SlowestTier(run.node, block, match.matched_blocks);
      if (slowest != 0) {
        ASSERT_EQ(run.tier, slowest) << block;
      }
    }
    next += run.count;
  }
  ASSERT_EQ(next, match.matched_blocks);
  for (const ChainMiss& miss : match.misses) {
    ASSERT_EQ(miss.first, next);
    next += miss.count;
  }
  ASSERT_EQ(next, world.blocks);
  if (!world.call.requester.empty()) return;  // a score has none
  const std::vector<ChainScore> scores = ScoreChain(world.index, world.view, world.call);
  for (const size_t node : others) {
    ASSERT_EQ(scores[node].matched_blocks, world.Stem({node})) << node;
    ASSERT_EQ(scores[node].pool_blocks + scores[node].ssd_blocks, scores[node].matched_blocks);
  }
}

TEST(ChainMatchProperty, StemIsTheLongestThatCanBeLoaded) {
  const int only = GTEST_FLAG_GET(random_seed);
  for (int seed = only != 0 ? only : 1; seed <= (only != 0 ? only : 1500); ++seed) {
    SCOPED_TRACE(::testing::Message() << "replay with --gtest_random_seed=" << seed);
    Check(static_cast<uint64_t>(seed));
    if (::testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace stem
