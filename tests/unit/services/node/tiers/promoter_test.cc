// What comes back from disk is proved before anyone may read it: every field of the record and every byte.
#include "services/node/tiers/promoter.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"
#include "services/node/tiers/spill_codec.h"
#include "tests/support/memory_spill_store.h"
#include "tests/support/spill_block.h"

namespace stem {
namespace {

constexpr uint64_t kBlockBytes = 10000;

// A disk that answers well-formed records with something changed in them.
class TamperingStore final : public SpillStore {
 public:
  std::function<void(SpillRead&)> tamper;

  absl::Status Put(std::span<const SpillWrite> writes) override { return inner_.Put(writes); }
  void Get(std::span<SpillRead> reads) override {
    inner_.Get(reads);
    for (SpillRead& read : reads) {
      if (tamper && read.status.ok()) tamper(read);
    }
  }
  absl::Status Remove(std::span<const SpillRecordId> records) override { return inner_.Remove(records); }
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) override { return inner_.ForEach(visit); }
  SpillStats stats() const override { return inner_.stats(); }

 private:
  MemorySpillStore inner_;
};

// A promoter over a pool of eight slots.
class PromotingTest : public ::testing::Test {
 protected:
  explicit PromotingTest(uint64_t block_bytes)
      : memory_(8 * SlotGeometry::For(block_bytes).slot_bytes),
        pool_(std::span(memory_), SlotGeometry::For(block_bytes), {.ssd_bytes_max = 1 << 30, .spill_ahead_slots = 1}),
        metrics_("n1"),
        log_({.process = "test", .out = &lines_}),
        promoter_(&store_, metrics_, log_) {}

  static std::vector<Filling> One(Filling filling) {
    std::vector<Filling> fillings;
    fillings.push_back(std::move(filling));
    return fillings;
  }

  std::vector<std::byte> memory_;
  BlockPool pool_;
  TamperingStore store_;
  NodeMetrics metrics_;
  std::ostringstream lines_;
  Logger log_;
  Promoter promoter_;
};

class PromoterTest : public PromotingTest {
 protected:
  PromoterTest() : PromotingTest(kBlockBytes) {
    // A chain of three on disk, as a restart finds it.
    for (uint64_t number = 0; number < 3; ++number) {
      const SpillBlock block(number, kBlockBytes, 5);
      EXPECT_TRUE(store_.Put(std::vector<SpillWrite>{block.write()}).ok());
      pool_.Restore(block.meta());
    }
    EXPECT_TRUE(pool_.FinishRestore().empty());
  }
  std::vector<absl::StatusOr<BlockPin>> PromoteAll() {
    std::vector<Filling> fillings;
    for (uint64_t number = 0; number < 3; ++number) {
      fillings.push_back(*pool_.BeginFill(SpillBlock::NameOf(number), std::nullopt, absl::Now()));
    }
    return promoter_.Promote(pool_, std::move(fillings), nullptr);
  }
  void ExpectBlockOneRefused() {
    {
      const std::vector<absl::StatusOr<BlockPin>> pins = PromoteAll();
      EXPECT_TRUE(pins[0].ok()) << pins[0].status();
      EXPECT_EQ(pins[1].status().code(), absl::StatusCode::kDataLoss) << pins[1].status();
      EXPECT_FALSE(pins[2].ok()) << "it hangs on a block that is gone";
    }
    EXPECT_EQ(pool_.Find(SpillBlock::NameOf(1)), BlockPool::Presence::kAbsent);
    EXPECT_EQ(pool_.Find(SpillBlock::NameOf(2)), BlockPool::Presence::kAbsent);
    EXPECT_EQ(store_.stats().records, 1u) << "quarantined on disk too";
    EXPECT_EQ(metrics_.integrity_failures(), 1u);
    EXPECT_EQ(pool_.stats().slots_free, 7u);
  }
  void TamperWithBlockOne(std::function<void(SpillRead&)> change) {
    store_.tamper = [change = std::move(change)](SpillRead& read) {
      if (read.name == SpillBlock::NameOf(1)) change(read);
    };
  }
};

TEST_F(PromoterTest, GoodRecordsBecomeReadable) {
  const std::vector<absl::StatusOr<BlockPin>> pins = PromoteAll();
  for (uint64_t number = 0; number < 3; ++number) {
    ASSERT_TRUE(pins[number].ok()) << pins[number].status();
    const std::span<const std::byte> payload = pins[number]->view().payload(kBlockBytes);
    EXPECT_TRUE(std::ranges::equal(payload, SpillBlock(number, kBlockBytes, 5).payload()));
    EXPECT_EQ(pins[number]->view().header().name, SpillBlock::NameOf(number));
  }
  EXPECT_EQ(metrics_.integrity_failures(), 0u);
}

TEST_F(PromoterTest, WhatHasLeftTheSsdIsGoneAndNoFailedProof) {
  const uint64_t free = pool_.stats().slots_free;
  EXPECT_EQ(Promoter::Begin(pool_, SpillBlock::NameOf(99), absl::Now() + absl::Seconds(1)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(pool_.stats().slots_free, free);
  EXPECT_EQ(pool_.Find(SpillBlock::NameOf(99)), BlockPool::Presence::kAbsent);
}

TEST_F(PromoterTest, BlockThatIsEvictedAndPublishedAgainWhileItIsReadIsAMissAndNoFailedProof) {
  TamperWithBlockOne([this](SpillRead& read) {
    pool_.Evict(read.name);
    Filling again = *pool_.BeginFill(read.name, SpillBlock::NameOf(0).key, absl::Now());
    ASSERT_TRUE(std::move(again).Commit(kBlockBytes, 1, 2).ok());
    read.status = absl::NotFoundError("no record");
  });
  {
    const std::vector<absl::StatusOr<BlockPin>> pins = PromoteAll();
    EXPECT_TRUE(pins[0].ok()) << pins[0].status();
    EXPECT_TRUE(absl::IsNotFound(pins[1].status())) << pins[1].status();
  }
  EXPECT_EQ(pool_.Find(SpillBlock::NameOf(1)), BlockPool::Presence::kDram) << "the new one has failed no proof";
  EXPECT_EQ(metrics_.integrity_failures(), 0u);
}

TEST_F(PromoterTest, RunIsBroughtInOrderAndEndsWhereABlockIsNotHeld) {
  std::vector<BlockName> names;
  for (uint64_t number = 0; number < 4; ++number) names.push_back(SpillBlock::NameOf(number));
  { const auto here = promoter_.Promote(pool_, One(*Promoter::Begin(pool_, names[0], absl::Now())), nullptr); }
  std::vector<std::pair<BlockName, bool>> taken;
  std::vector<BlockPin> pins;
  const absl::Status ended = promoter_.BringRun(pool_, names, absl::Now(), nullptr, [&](BlockPin pin, bool waited) {
    taken.push_back({pin.meta().name, waited});
    pins.push_back(std::move(pin));
  });
  EXPECT_TRUE(absl::IsNotFound(ended)) << ended;
  EXPECT_EQ(taken, (std::vector<std::pair<BlockName, bool>>{{names[0], false}, {names[1], true}, {names[2], true}}));
}

TEST_F(PromoterTest, RunWaitsForABlockThatAnotherBrings) {
  std::vector<BlockName> names;
  for (uint64_t number = 0; number < 3; ++number) names.push_back(SpillBlock::NameOf(number));
  Filling others = *Promoter::Begin(pool_, names[1], absl::Now());
  std::vector<BlockPin> pins;
  const auto take = [&](BlockPin pin, bool /*waited*/) { pins.push_back(std::move(pin)); };
  EXPECT_TRUE(absl::IsDeadlineExceeded(promoter_.BringRun(pool_, names, absl::Now(), nullptr, take)));
  EXPECT_EQ(pins.size(), 1u) << "what was before it is here";
  pins.clear();
  std::thread other([&] {
    absl::SleepFor(absl::Milliseconds(10));
    EXPECT_TRUE(promoter_.Promote(pool_, One(std::move(others)), nullptr)[0].ok());
  });
  EXPECT_TRUE(promoter_.BringRun(pool_, names, absl::Now() + absl::Seconds(60), nullptr, take).ok());
  other.join();
  EXPECT_EQ(pins.size(), 3u);
}

TEST_F(PromoterTest, RecordOfOtherBytesIsRefused) {
  TamperWithBlockOne([](SpillRead& read) { read.meta.digest ^= 1; });
  ExpectBlockOneRefused();
}

TEST_F(PromoterTest, WhatTheStoreCouldNotProveIsRefused) {
  TamperWithBlockOne([](SpillRead& read) { read.status = absl::DataLossError("payload does not have its digest"); });
  ExpectBlockOneRefused();
}

TEST_F(PromoterTest, RecordOfAnotherKeyIsRefused) {
  TamperWithBlockOne([](SpillRead& read) { read.meta.name.key.low ^= 1; });
  ExpectBlockOneRefused();
}

TEST_F(PromoterTest, RecordOfAnotherNamespaceIsRefused) {
  TamperWithBlockOne([](SpillRead& read) { read.meta.name.space.low ^= 1; });
  ExpectBlockOneRefused();
}

TEST_F(PromoterTest, RecordOfAnotherGenerationIsRefused) {
  TamperWithBlockOne([](SpillRead& read) { read.meta.generation += 1; });
  ExpectBlockOneRefused();
}

TEST_F(PromoterTest, ReadersWordAloneWithdrawsNothing) {
  const std::vector<absl::StatusOr<BlockPin>> pins = PromoteAll();
  promoter_.Recheck(pool_, SpillBlock::NameOf(1), "client");
  EXPECT_EQ(pool_.Find(SpillBlock::NameOf(1)), BlockPool::Presence::kDram);
  const SlotGeometry geometry = pool_.geometry();
  SlotView<std::byte>(std::span(memory_).subspan(pins[1]->slot() * geometry.slot_bytes, geometry.slot_bytes), geometry)
      .payload(kBlockBytes)[3] ^= std::byte{1};
  promoter_.Recheck(pool_, SpillBlock::NameOf(1), "client");
  EXPECT_EQ(pool_.Find(SpillBlock::NameOf(1)), BlockPool::Presence::kAbsent);
}

// ---- Records that are codes ---------------------------------------------------------------------------------------------

class EncodedRecordTest : public PromotingTest {
 protected:
  static constexpr uint64_t kPayloadBytes = 100 * 256;  // 100 runs of 128 bf16
  static constexpr uint64_t kRecordBytes = 100 * 132;
  static constexpr uint16_t kEncoding = 0x0802;

  EncodedRecordTest() : PromotingTest(kPayloadBytes), record_(kRecordBytes) {
    std::vector<std::byte> values(kPayloadBytes);
    for (size_t i = 0; i < kPayloadBytes / 2; ++i) {
      const uint16_t bits = quant::ToBf16(static_cast<float>(i % 1000) - 500);
      std::memcpy(values.data() + 2 * i, &bits, sizeof(bits));
    }
    EXPECT_TRUE(SpillCodec::OfRecord(kEncoding)->Encode(values, record_));
  }
  // As a restart finds it.
  void Hold(uint16_t encoding) {
    BlockMeta meta{.name = SpillBlock::NameOf(0), .generation = 5, .length = record_.size(), .publisher = 9, .encoding = encoding};
    std::vector<uint64_t> hashes(ChunkCount(record_.size()));
    meta.digest = Digest(meta.name, record_, hashes);
    ASSERT_TRUE(store_.Put(std::vector<SpillWrite>{{.meta = meta, .payload = record_}}).ok());
    pool_.Restore(meta);
    ASSERT_TRUE(pool_.FinishRestore().empty());
  }
  absl::StatusOr<BlockPin> Promote() {
    return std::move(promoter_.Promote(pool_, One(*pool_.BeginFill(SpillBlock::NameOf(0), std::nullopt, absl::Now())), nullptr)[0]);
  }
  void ExpectRefused() {
    EXPECT_TRUE(absl::IsDataLoss(Promote().status()));
    EXPECT_EQ(pool_.Find(SpillBlock::NameOf(0)), BlockPool::Presence::kAbsent);
    EXPECT_EQ(store_.stats().records, 0u) << "quarantined on disk too";
    EXPECT_EQ(metrics_.integrity_failures(), 1u);
  }

  std::vector<std::byte> record_;
};

TEST_F(EncodedRecordTest, SlotHoldsItsValuesAndProvesThem) {
  Hold(kEncoding);
  EXPECT_EQ(pool_.stats().ssd_bytes, SpillRecordBytes(kRecordBytes));
  const absl::StatusOr<BlockPin> pin = Promote();
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(pin->meta().length, kPayloadBytes);
  EXPECT_EQ(pin->meta().publisher, 9u);
  EXPECT_EQ(pin->meta().encoding, 0u);
  std::vector<std::byte> values(kPayloadBytes);
  SpillCodec::OfRecord(kEncoding)->Decode(record_, values);
  EXPECT_TRUE(std::ranges::equal(pin->view().payload(kPayloadBytes), values));
  EXPECT_TRUE(Promoter::IsGood(*pin)) << "as a scrub or a peer proves it";
  std::vector<uint64_t> hashes(ChunkCount(kPayloadBytes));
  Digest(SpillBlock::NameOf(0), values, hashes);
  EXPECT_TRUE(std::ranges::equal(pin->view().chunk_hashes(hashes.size()), hashes));
}

TEST_F(EncodedRecordTest, AlteredCodesAreRefused) {
  Hold(kEncoding);
  store_.tamper = [](SpillRead& read) {  // as a store does whose disk changed a byte
    read.payload[7] ^= std::byte{1};
    const BlockMeta record = read.meta;
    read.status = ProveSpillRead(read, record);
  };
  ExpectRefused();
}

TEST_F(EncodedRecordTest, RecordThatSaysOtherCodesIsRefused) {
  Hold(kEncoding);
  store_.tamper = [](SpillRead& read) { read.meta.encoding = 0x0801; };
  ExpectRefused();
}

TEST_F(EncodedRecordTest, CodesThatNoBuildWritesAreRefused) {
  Hold(0x0803);
  ExpectRefused();
}

TEST_F(EncodedRecordTest, RecordOfMoreThanASlotHoldsIsRefused) {
  record_.resize(kRecordBytes + 20 * 132);  // more than its last page
  Hold(kEncoding);
  ExpectRefused();
}

TEST_F(EncodedRecordTest, RecordWithoutWholeRunsIsRefused) {
  record_.resize(kRecordBytes - 1);
  Hold(kEncoding);
  ExpectRefused();
}

}  // namespace
}  // namespace stem
