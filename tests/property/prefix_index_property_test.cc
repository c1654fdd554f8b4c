// Whatever runs of whatever chains come and go, in any order and from slots that open and close: the index says what a
// map of maps says. Replay one seed with --gtest_random_seed=SEED.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "tests/support/index_lookup.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

using namespace ::stem::testing;  // NOLINT: one block at a time

using Random = std::mt19937_64;
using Holders = std::set<std::pair<NodeSlot, int>>;

// Chains that share their starts, as prompts do: 8 conversations over 3 system prompts.
std::vector<std::vector<uint64_t>> Chains(Random& random) {
  std::vector<std::vector<uint64_t>> prompts(3);
  for (auto& prompt : prompts) {
    prompt.resize(random() % 200);
    for (uint64_t& block : prompt) block = random() | 1;
  }
  std::vector<std::vector<uint64_t>> chains(8);
  for (auto& chain : chains) {
    chain = prompts[random() % prompts.size()];
    for (size_t own = 1 + random() % 300; own > 0; --own) chain.push_back(random() | 1);
  }
  return chains;
}

class World {
 public:
  World(uint64_t seed, uint64_t bytes_max)
      : random_(seed), index_({.bytes_max = bytes_max, .ghosts_max = 64}), chains_(Chains(random_)), slots_(6) {
    for (Slot& slot : slots_) slot.handle = *index_.OpenSlot();
  }

  void Change() {
    Slot& slot = slots_[random_() % slots_.size()];
    const std::vector<uint64_t>& chain = chains_[random_() % chains_.size()];
    const size_t first = random_() % 4 == 0 ? random_() % chain.size() : 0;
    const size_t count = 1 + random_() % (random_() % 3 == 0 ? 4 : chain.size() - first);
    std::vector<uint64_t> run(chain.begin() + static_cast<ptrdiff_t>(first),
                              chain.begin() + static_cast<ptrdiff_t>(std::min(chain.size(), first + count)));
    const auto tier = static_cast<v1::Tier>(v1::TIER_GPU + random_() % 3);
    switch (random_() % 16) {
      case 0: return Reopen(slot);
      case 1: index_.Step(); return;
      case 2: std::shuffle(run.begin(), run.end(), random_); break;
      case 3: run.push_back(run[random_() % run.size()]); break;  // twice the same
      default: break;
    }
    if (random_() % 5 < 3) {
      std::optional<uint64_t> parent;
      if (first > 0 && random_() % 2 == 0) parent = chain[first - 1];
      if (random_() % 16 == 0) parent = random_() | 1;
      index_.AddRun(slot.handle, run, parent, tier);
      for (const uint64_t block : run) slot.blocks[block] = tier;
    } else {
      if (random_() % 2 == 0) std::reverse(run.begin(), run.end());
      index_.RemoveRun(slot.handle, run, v1::MISS_CAUSE_EVICTED);
      for (const uint64_t block : run) slot.blocks.erase(block);
    }
  }

  void Settle() {
    while (index_.Step()) {
    }
  }

  // What is held, and in no other tier.
  Holders Expected(uint64_t block) const {
    Holders expected;
    for (const Slot& slot : slots_) {
      const auto held = slot.blocks.find(block);
      if (held != slot.blocks.end()) expected.emplace(slot.handle.slot, held->second);
    }
    return expected;
  }
  Holders Actual(uint64_t block) const {
    Holders actual;
    for (const FoundHolder holder : FindBlock(index_, block).holders) actual.emplace(holder.slot, holder.tier);
    return actual;
  }

  void ExpectEqual() {
    Settle();
    std::set<uint64_t> distinct;
    for (const Slot& slot : slots_) {
      uint64_t ssd = 0;
      for (const auto& [block, tier] : slot.blocks) {
        distinct.insert(block);
        ssd += tier == v1::TIER_SSD ? 1 : 0;
      }
      EXPECT_EQ(index_.slot_blocks(slot.handle).ssd, ssd);
      EXPECT_EQ(index_.slot_blocks(slot.handle).pool, slot.blocks.size() - ssd);
    }
    EXPECT_EQ(index_.counts().blocks, distinct.size());
    for (const auto& chain : chains_) {
      for (const uint64_t block : chain) ASSERT_EQ(Actual(block), Expected(block));
      ExpectPieces(chain);
    }
  }

  // Pieces are what was asked for, in order, and no one is said to have more than he has.
  void ExpectNoMore() {
    for (const auto& chain : chains_) {
      for (const uint64_t block : chain) {
        const Holders expected = Expected(block);
        for (const auto& holder : Actual(block)) ASSERT_TRUE(expected.contains(holder));
      }
    }
  }

  const PrefixIndex& index() const { return index_; }

 private:
  struct Slot {
    SlotHandle handle;
    std::map<uint64_t, int> blocks;
  };

  void Reopen(Slot& slot) {
    index_.CloseSlot(slot.handle, SlotEnd::kLost);
    slot.blocks.clear();
    slot.handle = *index_.OpenSlot();
  }

  void ExpectPieces(const std::vector<uint64_t>& chain) const {
    const PrefixIndex::Reader reader(index_);
    for (size_t at = 0; at < chain.size();) {
      const PrefixIndex::Piece piece = reader.Find(std::span(chain).subspan(at));
      if (piece.count == 0) {
        ASSERT_TRUE(Expected(chain[at]).empty());
        ++at;
        continue;
      }
      ASSERT_LE(at + piece.count, chain.size());
      std::vector<Holders> actual(piece.count);
      reader.ForEachHolder(piece, [&](NodeSlot slot, v1::Tier tier, PrefixIndex::SlotState, uint32_t first, uint32_t last) {
        for (uint32_t i = first; i <= last; ++i) actual[i].emplace(slot, tier);
      });
      for (uint32_t i = 0; i < piece.count; ++i) ASSERT_EQ(actual[i], Expected(chain[at + i])) << at << "+" << i;
      at += piece.count;
    }
  }

  Random random_;
  PrefixIndex index_;
  const std::vector<std::vector<uint64_t>> chains_;
  std::vector<Slot> slots_;
};

void ForEachSeed(int seeds, void (*check)(uint64_t seed)) {
  const int only = GTEST_FLAG_GET(random_seed);
  for (int seed = only != 0 ? only : 1; seed <= (only != 0 ? only : seeds); ++seed) {
    SCOPED_TRACE(::testing::Message() << "replay with --gtest_random_seed=" << seed);
    check(static_cast<uint64_t>(seed));
    if (::testing::Test::HasFailure()) break;
  }
}

TEST(PrefixIndexProperty, IndexIsTheMapOfMaps) {
  ForEachSeed(60, [](uint64_t seed) {
    World world(seed, 64 << 20);
    for (int phase = 0; phase < 8; ++phase) {
      for (int i = 0; i < 150; ++i) world.Change();
      world.ExpectEqual();
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_EQ(world.index().counts().shed, 0u);
  });
}

// One slab of records after another is all there is: most blocks must be forgotten, none may be made up.
TEST(PrefixIndexProperty, FullIndexForgetsAndStaysWithinItsBytes) {
  ForEachSeed(20, [](uint64_t seed) {
    constexpr uint64_t kBytesMax = 320 << 10;
    World world(seed, kBytesMax);
    for (int i = 0; i < 2000; ++i) {
      world.Change();
      ASSERT_LE(world.index().counts().bytes, kBytesMax);
    }
    world.ExpectNoMore();
    world.Settle();
    world.ExpectNoMore();
  });
}

}  // namespace
}  // namespace stem
