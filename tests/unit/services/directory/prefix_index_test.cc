#include "services/directory/prefix_index.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "stemcache/v1/types.pb.h"
#include "tests/support/index_lookup.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

using namespace ::stem::testing;  // NOLINT: one block at a time

class PrefixIndexTest : public ::testing::Test {
 protected:
  FoundBlock Find(uint64_t fingerprint) const { return FindBlock(index_, fingerprint); }
  void Settle() {
    while (index_.Step()) {
    }
  }
  PrefixIndex index_{{.bytes_max = 64 << 20, .ghosts_max = 1 << 16}};
  const SlotHandle a_ = *index_.OpenSlot();
  const SlotHandle b_ = *index_.OpenSlot();
};

TEST_F(PrefixIndexTest, AddedBlockIsFoundWithItsTierUntilRemoved) {
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_COLD);
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  AddBlock(index_, b_, 5, v1::TIER_SSD);
  ASSERT_EQ(Find(5).holders.size(), 2u);
  EXPECT_NE(Find(5).holders[0].tier, Find(5).holders[1].tier);
  RemoveBlock(index_, a_, 5, v1::MISS_CAUSE_EVICTED);
  ASSERT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(Find(5).holders[0].slot, b_.slot);
  EXPECT_EQ(index_.counts().ghosts, 0u) << "someone still has it";
}

TEST_F(PrefixIndexTest, TierChangeReplacesTheTierAndItsCount) {
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  AddBlock(index_, a_, 6, v1::TIER_GPU);
  AddBlock(index_, a_, 5, v1::TIER_SSD);
  ASSERT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(Find(5).holders[0].tier, v1::TIER_SSD);
  EXPECT_EQ(index_.slot_blocks(a_).pool, 1u);
  EXPECT_EQ(index_.slot_blocks(a_).ssd, 1u);
  RemoveBlock(index_, a_, 5, v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(index_.slot_blocks(a_).ssd, 0u);
}

TEST_F(PrefixIndexTest, LastHolderLeavesAGhostWithItsCauseAndAnAddLaysIt) {
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  RemoveBlock(index_, a_, 5, v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(index_.counts().blocks, 0u);
  EXPECT_EQ(index_.counts().ghosts, 1u);
  AddBlock(index_, b_, 5, v1::TIER_DRAM);
  EXPECT_EQ(Find(5).holders.size(), 1u);
  EXPECT_EQ(index_.counts().ghosts, 0u);
}

TEST_F(PrefixIndexTest, RemovingWhatIsNotThereChangesNothing) {
  RemoveBlock(index_, a_, 5, v1::MISS_CAUSE_EVICTED);
  AddBlock(index_, b_, 6, v1::TIER_DRAM);
  RemoveBlock(index_, a_, 6, v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_COLD);
  EXPECT_EQ(Find(6).holders.size(), 1u);
  EXPECT_EQ(index_.counts().ghosts, 0u);
}

TEST_F(PrefixIndexTest, RemovalsHideNothingThatStays) {
  constexpr uint64_t kRun = 64, kRuns = 4000;
  const auto keys = [](uint64_t run) {
    std::vector<uint64_t> fingerprints(kRun);
    for (uint64_t i = 0; i < kRun; ++i) fingerprints[i] = (run * kRun + i + 1) * 0x9E3779B97F4A7C15ULL;
    return fingerprints;
  };
  for (uint64_t run = 0; run < kRuns; ++run) index_.AddRun(a_, keys(run), std::nullopt, v1::TIER_DRAM);
  for (uint64_t run = 0; run < kRuns; run += 2) index_.RemoveRun(a_, keys(run), v1::MISS_CAUSE_EVICTED);
  const PrefixIndex::Reader reader(index_);
  for (uint64_t run = 1; run < kRuns; run += 2) {
    for (const uint64_t fingerprint : keys(run)) ASSERT_EQ(reader.Find(std::array{fingerprint}).count, 1u) << run;
  }
}

TEST_F(PrefixIndexTest, ClosedSlotIsOutOfSightAtOnceAndReclaimedByStep) {
  for (uint64_t i = 0; i < 1000; ++i) AddBlock(index_, a_, (i + 1) << 48, v1::TIER_DRAM);
  AddBlock(index_, b_, 2ULL << 48, v1::TIER_SSD);
  index_.CloseSlot(a_, SlotEnd::kLost);
  EXPECT_TRUE(Find(1ULL << 48).holders.empty());
  EXPECT_EQ(Find(1ULL << 48).cause, v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(Find(2ULL << 48).holders.size(), 1u);
  EXPECT_EQ(index_.counts().blocks, 1000u);
  Settle();
  EXPECT_EQ(index_.counts().blocks, 1u);
  EXPECT_EQ(index_.counts().ghosts, 999u);
  EXPECT_EQ(Find(1ULL << 48).cause, v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(Find(2ULL << 48).holders.size(), 1u);
}

TEST_F(PrefixIndexTest, WhatOnlyASupersededSnapshotHadIsUnknown) {
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  index_.CloseSlot(a_, SlotEnd::kSuperseded);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_UNKNOWN);
  Settle();
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_UNKNOWN);
}

TEST_F(PrefixIndexTest, RemoveByTheLastOpenSlotTellsItsOwnCause) {
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  AddBlock(index_, b_, 5, v1::TIER_DRAM);
  index_.CloseSlot(a_, SlotEnd::kLost);
  RemoveBlock(index_, b_, 5, v1::MISS_CAUSE_INTEGRITY);
  EXPECT_EQ(Find(5).cause, v1::MISS_CAUSE_INTEGRITY);
}

TEST_F(PrefixIndexTest, HandleOfAFormerTenantChangesNothing) {
  index_.CloseSlot(a_, SlotEnd::kLost);
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  EXPECT_TRUE(Find(5).holders.empty()) << "closed";
  Settle();
  const SlotHandle next = *index_.OpenSlot();
  ASSERT_EQ(next.slot, a_.slot);
  EXPECT_NE(next.generation, a_.generation);
  AddBlock(index_, next, 7, v1::TIER_DRAM);
  AddBlock(index_, a_, 5, v1::TIER_DRAM);
  RemoveBlock(index_, a_, 7, v1::MISS_CAUSE_EVICTED);
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

TEST(PrefixIndexGhosts, BlockThatComesAndGoesKeepsOneGhost) {
  PrefixIndex index({.bytes_max = 64 << 20, .ghosts_max = 512});
  const SlotHandle slot = *index.OpenSlot();
  for (int i = 0; i < 100; ++i) {
    AddBlock(index, slot, 1, v1::TIER_DRAM);
    RemoveBlock(index, slot, 1, v1::MISS_CAUSE_EVICTED);
  }
  EXPECT_EQ(index.counts().ghosts, 1u);
  EXPECT_EQ(FindBlock(index, 1).cause, v1::MISS_CAUSE_EVICTED);
}

TEST_F(PrefixIndexTest, WhatIsNotCountedIsFoundAndLeavesNoGhost) {
  constexpr auto kNo = PrefixIndex::Counted::kNo;
  AddBlock(index_, a_, 1, v1::TIER_DRAM);
  std::vector<uint64_t> chain(300);
  for (uint64_t i = 0; i < chain.size(); ++i) chain[i] = (i + 2) << 40;
  index_.AddRun(a_, std::span(chain).first(100), std::nullopt, v1::TIER_DRAM, kNo);
  index_.AddRun(a_, std::span(chain).subspan(100), chain[99], v1::TIER_DRAM, kNo);
  index_.AddRun(b_, chain, std::nullopt, v1::TIER_SSD, kNo);
  EXPECT_EQ(Find(chain[200]).holders.size(), 2u);
  EXPECT_EQ(index_.counts().blocks, 1u);
  EXPECT_EQ(index_.slot_blocks(a_).pool, 1u);
  EXPECT_EQ(index_.slot_blocks(b_).ssd, 0u);
  index_.RemoveRun(a_, std::span(chain).first(250), v1::MISS_CAUSE_EVICTED);
  index_.RemoveRun(b_, std::span(chain).first(250), v1::MISS_CAUSE_EVICTED);
  EXPECT_TRUE(Find(chain[200]).holders.empty());
  EXPECT_EQ(Find(chain[299]).holders.size(), 2u) << "moved to a smaller stretch";
  index_.CloseSlot(b_, SlotEnd::kLost);
  index_.CloseSlot(a_, SlotEnd::kLost);
  Settle();
  EXPECT_EQ(index_.counts().blocks, 0u);
  EXPECT_EQ(index_.counts().ghosts, 1u) << "of the one that counted";
}

// Readers, writers, closers and the sweeper at once: for TSan, and for the invariant that a reused slot never shows
// blocks of its former tenant.
TEST(PrefixIndexThreads, ReusedSlotNeverShowsAFormerTenantsBlocks) {
  PrefixIndex index({.bytes_max = 64 << 20, .ghosts_max = 1 << 12});
  std::atomic<bool> stop{false};
  std::thread sweeper([&] {
    while (!stop) index.Step();
  });
  std::thread reader([&] {
    for (uint64_t i = 0; !stop; ++i) FindBlock(index, (i % 64 + 1) << 57);
  });
  for (uint64_t round = 0; round < 300; ++round) {
    absl::StatusOr<SlotHandle> slot = index.OpenSlot();
    ASSERT_TRUE(slot.ok()) << slot.status();
    std::thread late([&index, handle = *slot] {  // may go on after the close
      for (uint64_t i = 0; i < 64; ++i) AddBlock(index, handle, (i + 1) << 57, v1::TIER_DRAM);
    });
    for (uint64_t i = 0; i < 64; i += 2) RemoveBlock(index, *slot, (i + 1) << 57, v1::MISS_CAUSE_EVICTED);
    index.CloseSlot(*slot, round % 2 == 0 ? SlotEnd::kLost : SlotEnd::kSuperseded);
    late.join();
    for (uint64_t i = 0; i < 64; ++i) ASSERT_TRUE(FindBlock(index, (i + 1) << 57).holders.empty());
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
