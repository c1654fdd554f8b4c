#include "services/directory/prefix_index.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "stemcache/v1/types.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

class PrefixIndexTest : public ::testing::Test {
 protected:
  PrefixIndex::Found Find(uint64_t fingerprint) {
    PrefixIndex::Found found;
    index_.Find(fingerprint, found);
    return found;
  }
  void Settle() {
    while (index_.Step()) {
    }
  }
  PrefixIndex index_{1 << 16};
  const SlotHandle a_ = *index_.OpenSlot();
  const SlotHandle b_ = *index_.OpenSlot();
};

TEST_F(PrefixIndexTest, AddedBlockIsFoundWithItsTierUntilRemoved) {
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_COLD);
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.Add(b_, 5, v1::TIER_SSD);
  ASSERT_EQ(Find(5).holders.size(), 2u);
  EXPECT_EQ(Find(5).holders[1].tier, v1::TIER_SSD);
  index_.Remove(a_, 5, v1::MISS_CAUSE_EVICTED);
  ASSERT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(Find(5).holders[0].slot, b_.slot);
  EXPECT_EQ(index_.counts().ghosts, 0u) << "someone still has it";
}

TEST_F(PrefixIndexTest, TierChangeReplacesTheTierAndItsCount) {
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.Add(a_, 6, v1::TIER_GPU);
  index_.Add(a_, 5, v1::TIER_SSD);
  ASSERT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(Find(5).holders[0].tier, v1::TIER_SSD);
  EXPECT_EQ(index_.slot_blocks(a_).pool, 1u);
  EXPECT_EQ(index_.slot_blocks(a_).ssd, 1u);
  index_.Remove(a_, 5, v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(index_.slot_blocks(a_).ssd, 0u);
}

TEST_F(PrefixIndexTest, LastHolderLeavesAGhostWithItsCauseAndAnAddLaysIt) {
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.Remove(a_, 5, v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(index_.counts().blocks, 0u);
  EXPECT_EQ(index_.counts().ghosts, 1u);
  index_.Add(b_, 5, v1::TIER_DRAM);
  EXPECT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(index_.counts().ghosts, 0u);
}

TEST_F(PrefixIndexTest, RemovingWhatIsNotThereChangesNothing) {
  index_.Remove(a_, 5, v1::MISS_CAUSE_EVICTED);
  index_.Add(b_, 6, v1::TIER_DRAM);
  index_.Remove(a_, 6, v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_COLD);
  EXPECT_EQ(Find(6).holders.size(), 1u);
  EXPECT_EQ(index_.counts().ghosts, 0u);
}

TEST_F(PrefixIndexTest, ClosedSlotIsOutOfSightAtOnceAndReclaimedByStep) {
  for (uint64_t i = 0; i < 1000; ++i) index_.Add(a_, i << 48, v1::TIER_DRAM);
  index_.Add(b_, 1ULL << 48, v1::TIER_SSD);
  index_.CloseSlot(a_, SlotEnd::kLost);
  EXPECT_TRUE(Find(0).holders.empty());
  EXPECT_EQ(Find(0).cause, v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(Find(1ULL << 48).holders.size(), 1u);
  EXPECT_EQ(index_.counts().blocks, 1000u);
  Settle();
  EXPECT_EQ(index_.counts().blocks, 1u);
  EXPECT_EQ(index_.counts().ghosts, 999u);
  EXPECT_EQ(Find(0).cause, v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(Find(1ULL << 48).holders.size(), 1u);
}

TEST_F(PrefixIndexTest, WhatOnlyASupersededSnapshotHadIsUnknown) {
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.CloseSlot(a_, SlotEnd::kSuperseded);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_UNKNOWN);
  Settle();
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_UNKNOWN);
}

TEST_F(PrefixIndexTest, RemoveByTheLastOpenSlotTellsItsOwnCause) {
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.Add(b_, 5, v1::TIER_DRAM);
  index_.CloseSlot(a_, SlotEnd::kLost);
  index_.Remove(b_, 5, v1::MISS_CAUSE_INTEGRITY);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_INTEGRITY);
}

TEST_F(PrefixIndexTest, HandleOfAFormerTenantChangesNothing) {
  index_.CloseSlot(a_, SlotEnd::kLost);
  index_.Add(a_, 5, v1::TIER_DRAM);
  EXPECT_TRUE(Find(5).holders.empty()) << "closed";
  Settle();
  const SlotHandle next = *index_.OpenSlot();
  ASSERT_EQ(next.slot, a_.slot);
  EXPECT_NE(next.generation, a_.generation);
  index_.Add(next, 7, v1::TIER_DRAM);
  index_.Add(a_, 5, v1::TIER_DRAM);
  index_.Remove(a_, 7, v1::MISS_CAUSE_EVICTED);
  index_.CloseSlot(a_, SlotEnd::kLost);
  EXPECT_TRUE(Find(5).holders.empty());
  EXPECT_EQ(Find(7).holders.size(), 1u);
}

TEST_F(PrefixIndexTest, SlotsRunOutAndComeBackAfterARound) {
  std::vector<SlotHandle> handles;
  for (size_t i = 2; i < PrefixIndex::kSlotsMax; ++i) handles.push_back(*index_.OpenSlot());
  EXPECT_EQ(index_.OpenSlot().status().code(), absl::StatusCode::kResourceExhausted);
  index_.CloseSlot(handles[0], SlotEnd::kLost);
  EXPECT_FALSE(index_.OpenSlot().ok()) << "its blocks are not reclaimed yet";
  Settle();
  EXPECT_TRUE(index_.OpenSlot().ok());
}

TEST(PrefixIndexGhosts, OldestIsForgottenAndThenNothingIsCold) {
  PrefixIndex index(256 * 2);  // two a shard
  const SlotHandle slot = *index.OpenSlot();
  for (uint64_t i = 1; i <= 3; ++i) {  // one shard: the top byte is 0
    index.Add(slot, i, v1::TIER_DRAM);
    index.Remove(slot, i, v1::MISS_CAUSE_EVICTED);
  }
  PrefixIndex::Found found;
  index.Find(1, found);
  EXPECT_EQ(found.cause, v1::MISS_CAUSE_UNKNOWN);
  index.Find(2, found);
  EXPECT_EQ(found.cause, v1::MISS_CAUSE_EVICTED);
  index.Find(99, found);
  EXPECT_EQ(found.cause, v1::MISS_CAUSE_UNKNOWN);
  index.Find(99ULL << 56, found);
  EXPECT_EQ(found.cause, v1::MISS_CAUSE_COLD) << "another shard forgot nothing";
  EXPECT_EQ(index.counts().ghosts, 2u);
}

TEST(PrefixIndexGhosts, BlockThatComesAndGoesKeepsOneGhost) {
  PrefixIndex index(256 * 2);
  const SlotHandle slot = *index.OpenSlot();
  for (int i = 0; i < 100; ++i) {
    index.Add(slot, 1, v1::TIER_DRAM);
    index.Remove(slot, 1, v1::MISS_CAUSE_EVICTED);
  }
  EXPECT_EQ(index.counts().ghosts, 1u);
  PrefixIndex::Found found;
  index.Find(1, found);
  EXPECT_EQ(found.cause, v1::MISS_CAUSE_EVICTED);
}

// Readers, writers, closers and the sweeper at once: for TSan, and for the invariant that a reused slot never shows
// blocks of its former tenant.
TEST(PrefixIndexThreads, ReusedSlotNeverShowsAFormerTenantsBlocks) {
  PrefixIndex index(1 << 12);
  std::atomic<bool> stop{false};
  std::thread sweeper([&] {
    while (!stop) index.Step();
  });
  std::thread reader([&] {
    PrefixIndex::Found found;
    for (uint64_t i = 0; !stop; ++i) index.Find((i % 64) << 58 | (i % 8), found);
  });
  for (uint64_t round = 0; round < 300; ++round) {
    absl::StatusOr<SlotHandle> slot = index.OpenSlot();
    ASSERT_TRUE(slot.ok()) << slot.status();
    std::thread late([&index, handle = *slot] {  // may go on after the close
      for (uint64_t i = 0; i < 64; ++i) index.Add(handle, i << 58, v1::TIER_DRAM);
    });
    for (uint64_t i = 0; i < 64; i += 2) index.Remove(*slot, i << 58, v1::MISS_CAUSE_EVICTED);
    index.CloseSlot(*slot, round % 2 == 0 ? SlotEnd::kLost : SlotEnd::kSuperseded);
    late.join();
    PrefixIndex::Found found;
    for (uint64_t i = 0; i < 64; ++i) {
      index.Find(i << 58, found);
      ASSERT_TRUE(found.holders.empty());
    }
  }
  stop = true;
  sweeper.join();
  reader.join();
  while (index.Step()) {
  }
  EXPECT_EQ(index.counts().blocks, 0u);
}

}  // namespace
}  // namespace stem
