#include "storage/pool/block_pool.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

constexpr uint64_t kBlockBytes = 4096;
constexpr NamespaceFingerprint kSpace = {{.low = 1, .high = 2}};

BlockName Name(uint64_t number) { return {kSpace, {{.low = number, .high = ~number}}}; }

class BlockPoolTest : public ::testing::Test {
 protected:
  void MakePool(size_t slots, BlockPool::Options options = {}) {
    geometry_ = SlotGeometry::For(kBlockBytes);
    memory_.resize(slots * geometry_.slot_bytes);
    options.policy = PolicyKind::kLru;  // the order of leaving is foreseen below
    options.on_change = [this](const BlockChange& change) { changes_.push_back(change); };
    options.on_leave = [this](const BlockLeft& left) { left_.push_back(left); };
    pool_ = std::make_unique<BlockPool>(std::span(memory_), geometry_, options);
  }

  absl::StatusOr<BlockPin> Publish(uint64_t number, std::optional<uint64_t> parent, uint64_t publisher = 7) {
    std::optional<BlockKey> parent_key;
    if (parent.has_value()) parent_key = Name(*parent).key;
    STEM_ASSIGN(Filling filling, pool_->BeginFill(Name(number), parent_key, absl::Now()));
    const std::span<std::byte> payload = filling.view().payload(kBlockBytes);
    std::fill(payload.begin(), payload.end(), static_cast<std::byte>(number));
    const uint64_t digest = Digest(Name(number), payload, filling.view().chunk_hashes(ChunkCount(kBlockBytes)));
    return std::move(filling).Commit(kBlockBytes, digest, publisher);
  }
  // Each the parent of the next; touched as a request touches its chain.
  void PublishChain(uint64_t first, uint64_t count) {
    std::vector<BlockName> chain;
    for (uint64_t i = 0; i < count; ++i) {
      const absl::StatusOr<BlockPin> pin =
          Publish(first + i, i == 0 ? std::nullopt : std::optional<uint64_t>(first + i - 1));
      ASSERT_TRUE(pin.ok()) << pin.status();
      chain.push_back(Name(first + i));
    }
    pool_->Touch(chain);
  }
  // What the spiller does, with a store that keeps everything or nothing.
  size_t Spill(bool stored = true) {
    std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
    const size_t count = batch.size();
    EXPECT_TRUE(pool_->FinishSpill(std::move(batch), stored).empty());
    return count;
  }
  BlockPool::Presence Find(uint64_t number) { return pool_->Find(Name(number)); }

  SlotGeometry geometry_;
  std::vector<std::byte> memory_;
  std::vector<BlockChange> changes_;
  std::vector<BlockLeft> left_;
  std::unique_ptr<BlockPool> pool_;
};

using enum BlockPool::Presence;

TEST_F(BlockPoolTest, CommittedBlockIsReadWithItsHeader) {
  MakePool(4);
  const absl::StatusOr<BlockPin> pin = Publish(5, std::nullopt);
  ASSERT_TRUE(pin.ok()) << pin.status();
  const SlotHeader header = pin->view().header();
  EXPECT_EQ(header.name, Name(5));
  EXPECT_EQ(header.generation, pin->meta().generation);
  EXPECT_NE(header.generation, 0u);
  EXPECT_EQ(header.length, kBlockBytes);
  EXPECT_EQ(header.publisher, 7u);
  EXPECT_EQ(pin->view().payload(kBlockBytes)[100], std::byte{5});
}

TEST_F(BlockPoolTest, ManyAreFoundAsOneByOne) {
  MakePool(4);
  const absl::StatusOr<Filling> filling = pool_->BeginFill(Name(2), std::nullopt, absl::Now());
  ASSERT_TRUE(filling.ok());
  std::vector<BlockName> names(300, Name(1));  // more than one lock's worth
  names.back() = Name(2);
  std::vector<BlockPool::Presence> found = {kDram};
  pool_->FindAll(names, found);
  ASSERT_EQ(found.size(), 301u) << "appended";
  EXPECT_EQ(found[1], kAbsent);
  EXPECT_EQ(found.back(), kFilling);
}

TEST_F(BlockPoolTest, FillingIsInvisibleUntilCommitted) {
  MakePool(4);
  {
    absl::StatusOr<Filling> filling = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
    ASSERT_TRUE(filling.ok());
    EXPECT_EQ(Find(1), kFilling);
    EXPECT_FALSE(pool_->Pin(Name(1)).valid());
    EXPECT_EQ(pool_->BeginFill(Name(1), std::nullopt, absl::Now()).status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_TRUE(changes_.empty()) << "bytes first, name second";
  }
  EXPECT_EQ(Find(1), kAbsent) << "an abandoned filling frees the name";
  EXPECT_EQ(pool_->stats().slots_free, 4u);
  EXPECT_TRUE(changes_.empty());
}

TEST_F(BlockPoolTest, SecondPublishOfAKeyIsRefusedAndTheFirstKept) {
  MakePool(4);
  ASSERT_TRUE(Publish(1, std::nullopt, 7).ok());
  EXPECT_EQ(Publish(1, std::nullopt, 8).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(pool_->Pin(Name(1)).meta().publisher, 7u);
}

TEST_F(BlockPoolTest, BlockWithoutItsParentIsRefused) {
  MakePool(4);
  EXPECT_EQ(Publish(2, 1).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(pool_->stats().slots_free, 4u);
}

TEST_F(BlockPoolTest, LeavesLeaveBeforeTheirParents) {
  MakePool(4);
  PublishChain(10, 4);
  ASSERT_TRUE(Publish(20, std::nullopt).ok());
  EXPECT_EQ(Find(13), kAbsent) << "the least recent leaf";
  EXPECT_EQ(Find(10), kDram) << "the least recent block, but a parent";
  ASSERT_EQ(changes_.size(), 6u);
  EXPECT_EQ(changes_[4].name, Name(13));
  EXPECT_EQ(changes_[4].residence, Residence::kGone);
  EXPECT_EQ(changes_[4].reason, GoneReason::kEvicted);
}

TEST_F(BlockPoolTest, TouchedChainOutlivesAnUntouchedOne) {
  MakePool(6);
  PublishChain(10, 3);
  PublishChain(20, 3);
  const std::vector<BlockName> chain = {Name(10), Name(11), Name(12)};
  pool_->Touch(chain);
  PublishChain(30, 3);
  EXPECT_EQ(Find(12), kDram);
  EXPECT_EQ(Find(20), kAbsent);
}

TEST_F(BlockPoolTest, PinnedSlotSurvivesEviction) {
  MakePool(2);
  const BlockPin first = *Publish(1, std::nullopt);
  const BlockPin second = *Publish(2, std::nullopt);
  const absl::Status refused = Publish(3, std::nullopt).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("2 pinned"));
  EXPECT_EQ(first.view().payload(kBlockBytes)[0], std::byte{1});
}

TEST_F(BlockPoolTest, SlotOfAWithdrawnBlockWaitsForItsLastPin) {
  MakePool(2);
  BlockPin reader = *Publish(1, std::nullopt);
  PublishChain(2, 1);
  EXPECT_EQ(pool_->Quarantine(Name(1), reader.meta().generation).gone, std::vector<BlockName>{Name(1)});
  EXPECT_EQ(Find(1), kAbsent) << "name withdrawn first";
  ASSERT_TRUE(Publish(3, std::nullopt).ok()) << "block 2 makes room";
  EXPECT_EQ(reader.view().payload(kBlockBytes)[0], std::byte{1}) << "bytes freed last";
  reader = BlockPin();
  EXPECT_EQ(pool_->stats().slots_free, 1u);
}

TEST_F(BlockPoolTest, QuarantineTakesTheSubtreeAlong) {
  MakePool(8);
  PublishChain(10, 3);
  ASSERT_TRUE(Publish(20, 10).ok());
  const uint64_t bad = pool_->Pin(Name(11)).meta().generation;
  EXPECT_TRUE(pool_->Quarantine(Name(11), bad + 100).gone.empty()) << "that copy has left";
  EXPECT_EQ(Find(12), kDram);
  EXPECT_EQ(pool_->Quarantine(Name(11), bad).gone.size(), 2u);
  EXPECT_EQ(Find(10), kDram);
  EXPECT_EQ(Find(20), kDram);
  EXPECT_EQ(Find(11), kAbsent);
  EXPECT_EQ(Find(12), kAbsent);
  EXPECT_EQ(changes_.back().reason, GoneReason::kIntegrity);
  EXPECT_EQ(pool_->stats().quarantined, 1u);
  EXPECT_EQ(pool_->stats().quarantined_below, 1u);
  EXPECT_EQ(pool_->stats().orphans, 0u);
  EXPECT_EQ(pool_->stats().slots_free, 6u);
}

TEST_F(BlockPoolTest, ChildOfAParentThatFailsIsRefusedAtCommit) {
  MakePool(4);
  absl::StatusOr<Filling> parent = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  absl::StatusOr<Filling> child = pool_->BeginFill(Name(2), Name(1).key, absl::Now());
  ASSERT_TRUE(parent.ok());
  ASSERT_TRUE(child.ok()) << "a chain may be on its way as a whole";
  { const Filling abandoned = *std::move(parent); }
  EXPECT_EQ(std::move(*child).Commit(kBlockBytes, 0, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Find(2), kAbsent);
  EXPECT_EQ(pool_->stats().slots_free, 4u);
  EXPECT_EQ(pool_->stats().filling, 0u);
}

TEST_F(BlockPoolTest, CommitBeforeTheParentsIsRefused) {
  MakePool(4);
  absl::StatusOr<Filling> parent = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  absl::StatusOr<Filling> child = pool_->BeginFill(Name(2), Name(1).key, absl::Now());
  EXPECT_FALSE(std::move(*child).Commit(kBlockBytes, 0, 0).ok());
  EXPECT_TRUE(std::move(*parent).Commit(kBlockBytes, 0, 0).ok());
}

TEST_F(BlockPoolTest, WaiterGetsTheBlockThatAnotherBrings) {
  MakePool(4);
  absl::StatusOr<Filling> filling = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  std::thread waiter([&] {
    const BlockPin pin = pool_->PinWhenFilled(Name(1), absl::Now() + absl::Seconds(60));
    EXPECT_TRUE(pin.valid());
  });
  EXPECT_TRUE(std::move(*filling).Commit(kBlockBytes, 0, 0).ok());
  waiter.join();
  EXPECT_FALSE(pool_->PinWhenFilled(Name(9), absl::Now() + absl::Seconds(60)).valid()) << "absent: no wait";
  absl::StatusOr<Filling> never = pool_->BeginFill(Name(2), std::nullopt, absl::Now());
  EXPECT_FALSE(pool_->PinWhenFilled(Name(2), absl::Now()).valid()) << "the deadline ends it";
}

TEST_F(BlockPoolTest, WhatSomebodyAwaitsIsNotGivenUpAndStaysWhenItCame) {
  MakePool(2);
  absl::StatusOr<Filling> filling = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  BlockPin pin;
  BlockAwait awaited;
  EXPECT_EQ(pool_->PinOrAwait(Name(1), &pin, &awaited), BlockPool::Presence::kFilling);
  EXPECT_FALSE(pin.valid());
  ASSERT_TRUE(awaited.valid());
  EXPECT_FALSE(filling->GiveUp());
  EXPECT_TRUE(std::move(*filling).Commit(kBlockBytes, 0, 0).ok());  // nobody has it pinned now
  for (uint64_t other = 2; other < 8; ++other) {
    absl::StatusOr<Filling> next = pool_->BeginFill(Name(other), std::nullopt, absl::Now());
    ASSERT_TRUE(next.ok()) << next.status();
    EXPECT_TRUE(std::move(*next).Commit(kBlockBytes, 0, 0).ok());
  }
  EXPECT_EQ(pool_->Find(Name(1)), BlockPool::Presence::kDram);
  awaited = BlockAwait();
  const absl::StatusOr<Filling> one = pool_->BeginFill(Name(12), std::nullopt, absl::Now());
  const absl::StatusOr<Filling> two = pool_->BeginFill(Name(13), std::nullopt, absl::Now());
  EXPECT_TRUE(one.ok() && two.ok());
  EXPECT_EQ(pool_->Find(Name(1)), BlockPool::Presence::kAbsent);
}

TEST_F(BlockPoolTest, WhatIsGivenUpLosesItsNameAtOnceAndItsSlotWithTheTicket) {
  MakePool(2);
  absl::StatusOr<Filling> parent = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  absl::StatusOr<Filling> child = pool_->BeginFill(Name(2), Name(1).key, absl::Now());
  {
    BlockPin pin;
    BlockAwait awaited;
    pool_->PinOrAwait(Name(2), &pin, &awaited);
    EXPECT_FALSE(child->GiveUp());
  }
  EXPECT_TRUE(child->GiveUp()) << "who awaited it has left";
  EXPECT_TRUE(parent->GiveUp());
  EXPECT_EQ(pool_->Find(Name(1)), BlockPool::Presence::kAbsent);
  EXPECT_TRUE(absl::IsResourceExhausted(pool_->BeginFill(Name(1), std::nullopt, absl::Now()).status())) << "law 6";
  *parent = Filling();
  absl::StatusOr<Filling> again = pool_->BeginFill(Name(1), std::nullopt, absl::Now());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(std::move(*child).Commit(kBlockBytes, 0, 0).ok());
  EXPECT_TRUE(std::move(*again).Commit(kBlockBytes, 0, 0).ok());
  EXPECT_EQ(pool_->stats().slots_free, 1u);
}

// ---- SSD tier -----------------------------------------------------------------------------------------------------------

class SpillingPoolTest : public BlockPoolTest {
 protected:
  void MakeSpillingPool(size_t slots, uint32_t ahead, uint64_t ssd_blocks) {
    MakePool(slots, {.ssd_bytes_max = ssd_blocks * SpillRecordBytes(kBlockBytes), .spill_ahead_slots = ahead});
  }
};

TEST_F(SpillingPoolTest, SpilledBlockChangesTierAndFreesItsSlot) {
  MakeSpillingPool(4, 1, 100);
  PublishChain(10, 4);
  EXPECT_EQ(Spill(), 2u) << "up to twice the slots to keep free";
  EXPECT_EQ(pool_->stats().slots_free, 2u);
  EXPECT_EQ(pool_->stats().blocks_ssd, 2u);
  EXPECT_EQ(changes_.back().residence, Residence::kSsd);
  EXPECT_EQ(Find(13), kSsd);
  EXPECT_EQ(Find(12), kSsd) << "one chain goes together, from its end";
  EXPECT_EQ(Find(11), kDram);
}

TEST_F(SpillingPoolTest, UnstoredBatchStaysInDram) {
  MakeSpillingPool(2, 1, 100);
  PublishChain(10, 2);
  const size_t before = changes_.size();
  EXPECT_EQ(Spill(false), 2u);
  EXPECT_EQ(Find(10), kDram);
  EXPECT_EQ(changes_.size(), before);
  // With the disk refusing, the pool evicts leaves and says why they are gone.
  ASSERT_TRUE(Publish(20, std::nullopt).ok());
  EXPECT_EQ(Find(11), kAbsent);
  EXPECT_EQ(changes_[before].reason, GoneReason::kSpillRejected);
  ASSERT_FALSE(left_.empty());
  EXPECT_EQ(left_.back().reason, GoneReason::kSpillRejected);
  EXPECT_EQ(left_.back().from, Residence::kDram);
}

TEST_F(SpillingPoolTest, PublishWaitsForTheSpillerOrItsDeadline) {
  MakeSpillingPool(2, 1, 100);
  PublishChain(10, 2);
  EXPECT_EQ(Publish(20, std::nullopt).status().code(), absl::StatusCode::kResourceExhausted) << "its deadline is now";
  std::thread publisher([&] {
    EXPECT_TRUE(pool_->BeginFill(Name(20), std::nullopt, absl::Now() + absl::Seconds(60)).ok());
  });
  while (Spill() == 0) std::this_thread::yield();
  publisher.join();
}

TEST_F(SpillingPoolTest, PromotedBlockKeepsItsRecordAndLeavesDramWithoutAWrite) {
  MakeSpillingPool(2, 1, 100);
  PublishChain(10, 2);
  const uint64_t spilled_generation = pool_->Pin(Name(10)).meta().generation;
  Spill();
  ASSERT_EQ(Find(10), kSsd);
  {
    absl::StatusOr<Filling> filling = pool_->BeginFill(Name(10), std::nullopt, absl::Now());
    ASSERT_TRUE(filling.ok()) << filling.status();
    ASSERT_TRUE(filling->promoted().has_value());
    EXPECT_EQ(filling->promoted()->generation, spilled_generation);
    EXPECT_EQ(filling->promoted()->length, kBlockBytes);
    const BlockMeta meta = *filling->promoted();
    const absl::StatusOr<BlockPin> pin = std::move(*filling).Commit(meta.length, meta.digest, meta.publisher);
    ASSERT_TRUE(pin.ok());
    EXPECT_NE(pin->meta().generation, spilled_generation);
    EXPECT_EQ(changes_.back().residence, Residence::kDram);
  }
  PublishChain(20, 1);
  ASSERT_TRUE(Publish(21, 20).ok()) << "clean: no spiller needed";
  EXPECT_EQ(Find(10), kSsd);
}

TEST_F(SpillingPoolTest, RecordOfOtherBytesThanItsBlockIsCountedAndAskedForAsItIs) {
  MakeSpillingPool(2, 1, 100);
  PublishChain(10, 2);
  std::vector<BlockPin> batch = pool_->TakeSpillBatch(1 << 20);
  ASSERT_EQ(batch.size(), 2u);
  std::vector<BlockMeta> records;
  for (const BlockPin& pin : batch) {
    records.push_back(pin.meta());
    records.back().length = 100;
    records.back().digest = 77 + records.size();
    records.back().encoding = 5;
  }
  EXPECT_TRUE(pool_->FinishSpill(std::move(batch), true, records).empty());
  EXPECT_EQ(pool_->stats().ssd_bytes, 2 * SpillRecordBytes(100));
  for (int round = 0; round < 2; ++round) {  // the second time it was a slot's block in between
    absl::StatusOr<Filling> filling = pool_->BeginFill(records[1].name, std::nullopt, absl::Now());
    ASSERT_TRUE(filling.ok()) << filling.status();
    EXPECT_EQ(*filling->promoted(), records[1]);
    EXPECT_EQ(std::move(*filling).Commit(kBlockBytes, 1234, records[1].publisher)->meta().length, kBlockBytes);
    EXPECT_EQ(pool_->stats().ssd_bytes, 2 * SpillRecordBytes(100));
    PublishChain(static_cast<uint64_t>(20 + 10 * round), 1);
    ASSERT_TRUE(Publish(static_cast<uint64_t>(21 + 10 * round), static_cast<uint64_t>(20 + 10 * round)).ok());
    pool_->Evict(Name(static_cast<uint64_t>(20 + 10 * round)));
  }
  pool_->Evict(Name(10));
  EXPECT_EQ(pool_->stats().ssd_bytes, 0u);
}

TEST_F(SpillingPoolTest, AbandonedPromotionLeavesTheBlockOnSsd) {
  MakeSpillingPool(2, 1, 100);
  PublishChain(10, 2);
  Spill();
  { const absl::StatusOr<Filling> filling = pool_->BeginFill(Name(10), std::nullopt, absl::Now()); }
  EXPECT_EQ(Find(10), kSsd);
  EXPECT_EQ(pool_->stats().slots_free, 2u);
}

TEST_F(SpillingPoolTest, FullSsdGivesUpLeavesFirst) {
  MakeSpillingPool(4, 2, 4);
  PublishChain(10, 4);
  ASSERT_EQ(Spill(), 4u);
  ASSERT_EQ(pool_->stats().blocks_ssd, 4u);
  const std::vector<SpillRecordId> gone = pool_->MakeSsdRoom(SpillRecordBytes(kBlockBytes));
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].name, Name(13));
  EXPECT_EQ(Find(13), kAbsent);
  EXPECT_EQ(changes_.back().reason, GoneReason::kEvicted);
  EXPECT_EQ(left_.back().name, Name(13));
  EXPECT_EQ(left_.back().from, Residence::kSsd);
  EXPECT_EQ(left_.back().reason, GoneReason::kEvicted);
  EXPECT_EQ(left_.back().by, "lru");
}

TEST_F(SpillingPoolTest, RestartedPoolHoldsWhatIsOnDiskAndDropsOrphans) {
  MakeSpillingPool(4, 1, 100);
  const auto meta = [](uint64_t number, std::optional<uint64_t> parent) {
    BlockMeta restored{.name = Name(number), .generation = 3, .length = kBlockBytes, .digest = 9};
    if (parent.has_value()) restored.parent = Name(*parent).key;
    return restored;
  };
  pool_->Restore(meta(11, 10));  // any order
  pool_->Restore(meta(10, std::nullopt));
  pool_->Restore(meta(31, 30));  // its parent is not there
  pool_->Restore(meta(32, 31));
  EXPECT_THAT(pool_->FinishRestore(), ::testing::UnorderedElementsAre(SpillRecordId{Name(31), 3}, SpillRecordId{Name(32), 3}));
  EXPECT_EQ(Find(10), kSsd);
  EXPECT_EQ(Find(11), kSsd);
  EXPECT_EQ(Find(32), kAbsent);
  std::vector<BlockName> held;
  pool_->Snapshot([&](const BlockChange& change) {
    EXPECT_EQ(change.residence, Residence::kSsd);
    held.push_back(change.name);
  });
  EXPECT_THAT(held, ::testing::UnorderedElementsAre(Name(10), Name(11)));
}

}  // namespace
}  // namespace stem
