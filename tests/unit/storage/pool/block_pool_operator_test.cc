#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/pool/block_pool.h"

namespace stem {
namespace {

using enum BlockPool::Presence;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 4096;
constexpr NamespaceFingerprint kSpace = {{.low = 1, .high = 2}};
constexpr NamespaceFingerprint kOther = {{.low = 3, .high = 4}};

BlockName Name(uint64_t number, const NamespaceFingerprint& space = kSpace) { return {space, {{.low = number, .high = ~number}}}; }

class BlockPoolOperatorTest : public ::testing::Test {
 protected:
  void MakePool(size_t slots, uint64_t ssd_bytes = 0) {
    memory_.resize(slots * kGeometry.slot_bytes);
    pool_ = std::make_unique<BlockPool>(std::span(memory_), kGeometry,
                                        BlockPool::Options{.ssd_bytes_max = ssd_bytes,
                                                           .spill_ahead_slots = 1,
                                                           .policy = PolicyKind::kLru,
                                                           .on_change = [this](const BlockChange& change) { changes_.push_back(change); }});
  }
  // What of it is not there yet. True when all of it found room.
  bool Publish(uint64_t first, uint64_t count, const NamespaceFingerprint& space = kSpace) {
    std::vector<BlockName> chain;
    std::vector<BlockPin> pins;
    for (uint64_t i = 0; i < count; ++i) {
      std::optional<BlockKey> parent;
      if (i > 0) parent = chain.back().key;
      chain.push_back(Name(first + i, space));
      absl::StatusOr<Filling> filling = pool_->BeginFill(chain.back(), parent, absl::Now());
      if (absl::IsAlreadyExists(filling.status())) continue;
      if (!filling.ok()) return false;
      pins.push_back(*std::move(*filling).Commit(kBlockBytes, 1, 2));
    }
    pins.clear();
    pool_->Touch(chain);
    return true;
  }
  static std::vector<BlockName> Chain(uint64_t first, uint64_t count) {
    std::vector<BlockName> chain;
    for (uint64_t i = 0; i < count; ++i) chain.push_back(Name(first + i));
    return chain;
  }
  BlockPool::Presence Find(uint64_t number) { return pool_->Find(Name(number)); }

  static constexpr SlotGeometry kGeometry = SlotGeometry::For(kBlockBytes);
  std::vector<std::byte> memory_;
  std::vector<BlockChange> changes_;
  std::unique_ptr<BlockPool> pool_;
};

TEST_F(BlockPoolOperatorTest, EvictTakesTheSubtreeLeavesFirstAndNoMore) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 4));
  ASSERT_TRUE(Publish(20, 1));
  changes_.clear();
  const BlockPool::Withdrawn evicted = pool_->Evict(Name(12));
  EXPECT_THAT(evicted.gone, ElementsAre(Name(13), Name(12)));
  EXPECT_EQ(evicted.in_use, 0u);
  EXPECT_FALSE(evicted.more);
  ASSERT_EQ(changes_.size(), 2u);
  EXPECT_EQ(changes_[0].reason, GoneReason::kWithdrawn);
  EXPECT_EQ(Find(11), kDram);
  EXPECT_EQ(Find(20), kDram);
  EXPECT_EQ(pool_->stats().slots_free, 5u);
  EXPECT_TRUE(pool_->Evict(Name(12)).gone.empty()) << "it left";
}

TEST_F(BlockPoolOperatorTest, EvictedBlockThatIsReadIsNamedNoMoreAndFreedWhenLetGo) {
  MakePool(4);
  ASSERT_TRUE(Publish(10, 2));
  BlockPin pin = pool_->Pin(Name(11));
  const BlockPool::Withdrawn evicted = pool_->Evict(Name(10));
  EXPECT_EQ(evicted.gone.size(), 2u);
  EXPECT_EQ(evicted.in_use, 1u);
  EXPECT_EQ(Find(11), kAbsent);
  EXPECT_EQ(pool_->stats().slots_free, 3u);
  pin = BlockPin();
  EXPECT_EQ(pool_->stats().slots_free, 4u);
}

TEST_F(BlockPoolOperatorTest, EvictSpaceTakesOneNamespaceInPieces) {
  MakePool(12'000);
  for (uint64_t chain = 0; chain < 5; ++chain) ASSERT_TRUE(Publish(10'000 * (chain + 1), 2'000));
  ASSERT_TRUE(Publish(1, 3, kOther));
  size_t gone = 0, calls = 0;
  for (BlockId next = 0;; ++calls) {
    const BlockPool::Withdrawn evicted = pool_->EvictSpace(kSpace, &next);
    gone += evicted.gone.size();
    if (!evicted.more) break;
  }
  EXPECT_EQ(gone, 10'000u);
  EXPECT_GE(calls, 2u) << "never the lock for all of it";
  EXPECT_EQ(pool_->stats().blocks_dram, 3u);
  EXPECT_EQ(pool_->Find(Name(3, kOther)), kDram);
}

TEST_F(BlockPoolOperatorTest, KeptStemOutlivesAnyPressureAndLeavesAgainWhenLetGo) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 3));
  absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(Chain(10, 3));
  ASSERT_TRUE(kept.ok()) << kept.status();
  ASSERT_EQ(kept->size(), 3u);
  EXPECT_EQ(pool_->stats().slots_kept, 3u);
  for (uint64_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(Publish(100 + 10 * i, 2));
    pool_->Touch(Chain(10, 3));  // its uses do not bring it back into the ranks
  }
  for (uint64_t number = 10; number < 13; ++number) EXPECT_EQ(Find(number), kDram);
  pool_->LetGo(*std::move(kept));
  EXPECT_EQ(pool_->stats().slots_kept, 0u);
  EXPECT_EQ(pool_->stats().pins, 0u);
  for (uint64_t i = 0; i < 20; ++i) ASSERT_TRUE(Publish(1000 + 10 * i, 2));
  EXPECT_EQ(Find(10), kAbsent) << "an old block like any other";
}

TEST_F(BlockPoolOperatorTest, KeepStopsAtTheFirstBlockThatIsNotHere) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 2));
  absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(Chain(10, 4));
  ASSERT_TRUE(kept.ok());
  EXPECT_EQ(kept->size(), 2u);
  pool_->LetGo(*std::move(kept));
}

TEST_F(BlockPoolOperatorTest, HalfOfThePoolAtMostIsKept) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 5));
  const absl::StatusOr<std::vector<BlockPin>> all = pool_->Keep(Chain(10, 5));
  EXPECT_EQ(all.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool_->stats().pins, 0u);
  absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(Chain(10, 4));
  ASSERT_TRUE(kept.ok()) << kept.status();
  absl::StatusOr<std::vector<BlockPin>> again = pool_->Keep(Chain(10, 4));
  EXPECT_TRUE(again.ok()) << "what is kept already costs nothing";
  pool_->LetGo(*std::move(kept));
  EXPECT_EQ(pool_->stats().slots_kept, 4u) << "the other still keeps it";
  pool_->LetGo(*std::move(again));
}

TEST_F(BlockPoolOperatorTest, WhatMayBeKeptIsKnownBeforeItIsBrought) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 4));
  EXPECT_TRUE(pool_->MayKeep(Chain(10, 4)).ok());
  EXPECT_EQ(pool_->MayKeep(Chain(10, 5)).code(), absl::StatusCode::kResourceExhausted) << "wherever the fifth is";
  absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(Chain(10, 4));
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_TRUE(pool_->MayKeep(Chain(10, 4)).ok()) << "what is kept already costs nothing";
  EXPECT_FALSE(pool_->MayKeep(Chain(30, 1)).ok());
  pool_->LetGo(*std::move(kept));
}

TEST_F(BlockPoolOperatorTest, QuotaUnderWhichHalfOrMoreWouldBeKeptIsRefusedWithBothNumbers) {
  MakePool(8);
  ASSERT_TRUE(Publish(10, 4));
  absl::StatusOr<std::vector<BlockPin>> kept = pool_->Keep(Chain(10, 3));
  ASSERT_TRUE(kept.ok()) << kept.status();
  const absl::Status refused = pool_->SetQuota(5 * kGeometry.slot_bytes, 0);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(std::to_string(3 * kGeometry.slot_bytes)));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(std::to_string(6 * kGeometry.slot_bytes)));
  EXPECT_EQ(pool_->stats().slots_max, 8u);
  ASSERT_TRUE(pool_->SetQuota(6 * kGeometry.slot_bytes, 0).ok());
  pool_->EvictOverQuota();
  ASSERT_TRUE(Publish(100, 3)) << "there is room beside what is kept";
  pool_->LetGo(*std::move(kept));
  EXPECT_TRUE(pool_->SetQuota(kGeometry.slot_bytes, 0).ok());
}

TEST_F(BlockPoolOperatorTest, SpillerRestsWhereNothingMayLeaveThoughSlotsAreWanted) {
  MakePool(4, 100 * SpillRecordBytes(kBlockBytes));
  ASSERT_TRUE(Publish(10, 4));
  std::vector<BlockPin> readers;
  pool_->PinRun(Chain(10, 4), readers);
  ASSERT_TRUE(pool_->TakeSpillBatch(1 << 20).empty());
  constexpr absl::Duration kRest = absl::Milliseconds(30);
  const absl::Time begin = absl::Now();
  pool_->WaitForSpillDemand(kRest);
  EXPECT_GE(absl::Now() - begin, kRest) << "it looked again at once, for ever";
  readers.clear();
  std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
  EXPECT_FALSE(batch.empty());
  EXPECT_TRUE(pool_->FinishSpill(std::move(batch), true).empty());
}

TEST_F(BlockPoolOperatorTest, ChainToNamesTheWayFromTheBeginning) {
  MakePool(4);
  ASSERT_TRUE(Publish(10, 3));
  EXPECT_EQ(pool_->ChainTo(Name(12)), Chain(10, 3));
  EXPECT_TRUE(pool_->ChainTo(Name(13)).empty());
}

TEST_F(BlockPoolOperatorTest, QuotaEvictsWhatIsTooMuchAndHoldsFromThenOn) {
  MakePool(8);
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(Publish(10 * (i + 1), 1));
  ASSERT_TRUE(pool_->SetQuota(3 * kGeometry.slot_bytes, 0).ok());
  EXPECT_FALSE(pool_->EvictOverQuota());
  EXPECT_EQ(pool_->stats().blocks_dram, 3u);
  EXPECT_EQ(Find(80), kDram) << "the latest stay";
  for (uint64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(Publish(1000 + 10 * i, 1));
    ASSERT_LE(pool_->stats().blocks_dram, 3u);
  }
  ASSERT_TRUE(pool_->SetQuota(8 * kGeometry.slot_bytes, 0).ok());
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(Publish(2000 + 10 * i, 1));
  EXPECT_EQ(pool_->stats().blocks_dram, 8u);
  EXPECT_EQ(pool_->SetQuota(9 * kGeometry.slot_bytes, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool_->SetQuota(1, 0).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(pool_->SetQuota(0, 1 << 20).code(), absl::StatusCode::kInvalidArgument) << "no SSD tier";
}

TEST_F(BlockPoolOperatorTest, QuotaBelowWhatIsReadIsReachedWhenItIsLetGo) {
  MakePool(4);
  ASSERT_TRUE(Publish(10, 4));
  std::vector<BlockPin> pins;
  pool_->PinRun(Chain(10, 4), pins);
  ASSERT_TRUE(pool_->SetQuota(kGeometry.slot_bytes, 0).ok());
  EXPECT_FALSE(pool_->EvictOverQuota());
  EXPECT_EQ(pool_->stats().blocks_dram, 4u);
  EXPECT_FALSE(Publish(20, 1));
  pins.clear();
  ASSERT_TRUE(Publish(20, 1));
  EXPECT_EQ(pool_->stats().blocks_dram, 1u);
}

TEST_F(BlockPoolOperatorTest, SpilledBlocksMakeRoomUnderASmallerQuota) {
  MakePool(16, 100 * SpillRecordBytes(kBlockBytes));
  ASSERT_TRUE(Publish(10, 8));
  ASSERT_TRUE(pool_->SetQuota(4 * kGeometry.slot_bytes, 2 * SpillRecordBytes(kBlockBytes)).ok());
  while (true) {  // what the spiller does
    std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
    if (batch.empty()) break;
    EXPECT_TRUE(pool_->FinishSpill(std::move(batch), true).empty());
  }
  EXPECT_LT(pool_->stats().blocks_dram, 4u);
  const std::vector<SpillRecordId> gone = pool_->MakeSsdRoom(0);
  EXPECT_FALSE(gone.empty());
  EXPECT_LE(pool_->stats().ssd_bytes, 2 * SpillRecordBytes(kBlockBytes));
}

TEST_F(BlockPoolOperatorTest, EvictWhileSpillingLeavesNoRecordBehind) {
  MakePool(2, 100 * SpillRecordBytes(kBlockBytes));
  ASSERT_TRUE(Publish(10, 2));
  std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
  ASSERT_FALSE(batch.empty());
  const size_t in_batch = batch.size();
  EXPECT_EQ(pool_->Evict(Name(10)).gone.size(), 2u);
  EXPECT_EQ(pool_->FinishSpill(std::move(batch), true).size(), in_batch) << "they were written after they had been withdrawn";
  EXPECT_EQ(pool_->stats().slots_free, 2u);
  EXPECT_EQ(pool_->stats().blocks_ssd, 0u);
}

TEST_F(BlockPoolOperatorTest, RecordsOfABlockThatLeftAndCameBackDiffer) {
  MakePool(2, 100 * SpillRecordBytes(kBlockBytes));
  const auto spill = [&] {
    std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
    const uint64_t generation = batch.empty() ? 0 : batch[0].meta().generation;
    EXPECT_TRUE(pool_->FinishSpill(std::move(batch), true).empty());
    return generation;
  };
  ASSERT_TRUE(Publish(10, 2));
  const uint64_t first = spill();
  ASSERT_EQ(Find(11), kSsd);
  const BlockPool::Withdrawn evicted = pool_->Evict(Name(11));
  EXPECT_THAT(evicted.records, ElementsAre(SpillRecordId{Name(11), first}));
  ASSERT_TRUE(Publish(10, 2));
  const uint64_t second = spill();
  ASSERT_NE(second, first) << "else the first one's removal would take it along";
  EXPECT_TRUE(pool_->Quarantine(Name(11), first).gone.empty()) << "who read the first has nothing against this one";
  EXPECT_THAT(pool_->Quarantine(Name(11), second).records, ElementsAre(SpillRecordId{Name(11), second}));
}

TEST_F(BlockPoolOperatorTest, RecordsOfAnEarlierLifeAreNotTakenForThisOnes) {
  MakePool(2, 100 * SpillRecordBytes(kBlockBytes));
  pool_->Restore({.name = Name(10), .generation = 1, .length = kBlockBytes});
  EXPECT_TRUE(pool_->FinishRestore().empty());
  EXPECT_THAT(pool_->Evict(Name(10)).records, ElementsAre(SpillRecordId{Name(10), 1}));
  ASSERT_TRUE(Publish(10, 1));
  EXPECT_GT(pool_->Pin(Name(10)).meta().generation, 1u);
}

}  // namespace
}  // namespace stem
