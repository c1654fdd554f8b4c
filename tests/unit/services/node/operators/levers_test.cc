// Levers on one node's parts, with a disk that the test sees: what they bring, keep, evict and leave to the spiller.
#include "services/node/operators/levers.h"

#include <sstream>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"
#include "services/node/tiers/spiller.h"
#include "tests/support/eventually.h"
#include "tests/support/memory_spill_store.h"

namespace stem {
namespace {

using enum BlockPool::Presence;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 256;
constexpr SlotGeometry kGeometry = SlotGeometry::For(kBlockBytes);
constexpr uint64_t kRecordBytes = SpillRecordBytes(kBlockBytes);

BlockKey Key(uint64_t number) { return {{.low = number, .high = 77}}; }

std::vector<BlockKey> Keys(uint64_t first, uint64_t count) {
  std::vector<BlockKey> keys;
  for (uint64_t i = 0; i < count; ++i) keys.push_back(Key(first + i));
  return keys;
}

class NodeLeversTest : public ::testing::Test {
 protected:
  void Begin(size_t slots, std::vector<Part> parts = {{.id = 0, .block_bytes = kBlockBytes}}) {
    spaces_ = *SpaceTable::Create({.groups = {{.name = "a", .uids = {1}, .dram_bytes = slots * kGeometry.slot_bytes}}, .ssd_bytes = 1 << 30},
                                  std::vector<uint8_t>(32, 's'));
    space_ = spaces_->Register({.model = "m", .kv_dtype = "opaque", .layout = "opaque", .block_tokens = 16, .parts = std::move(parts)}, 1, "")
                 ->space;
  }
  BlockName Name(uint64_t number, uint32_t part = 0) const { return {space_->fingerprint, PartKey(Key(number), part)}; }
  BlockPool& pool() { return space_->pool(); }

  // In memory: a chain, or with `alone` blocks without parents.
  void Publish(uint64_t first, uint64_t count, uint32_t part = 0, bool alone = false) {
    for (uint64_t i = 0; i < count; ++i) {
      std::optional<BlockKey> parent;
      if (i > 0 && !alone) parent = Name(first + i - 1, part).key;
      absl::StatusOr<Filling> filling = pool().BeginFill(Name(first + i, part), parent, absl::Now());
      ASSERT_TRUE(filling.ok()) << filling.status();
      ASSERT_TRUE(std::move(*filling).Commit(kBlockBytes, 1, 2).ok());
    }
  }
  // On the disk alone, as a restart finds it.
  void Spilled(uint64_t first, uint64_t count) {
    const std::vector<std::byte> payload(kBlockBytes, std::byte{7});
    std::vector<uint64_t> hashes(ChunkCount(kBlockBytes));
    for (uint64_t i = 0; i < count; ++i) {
      BlockMeta meta{.name = Name(first + i), .generation = 1 + i, .length = kBlockBytes};
      if (i > 0) meta.parent = Name(first + i - 1).key;
      meta.digest = Digest(meta.name, payload, hashes);
      ASSERT_TRUE(store_.Put(std::vector<SpillWrite>{{.meta = meta, .payload = payload}}).ok());
      pool().Restore(meta);
    }
    ASSERT_TRUE(pool().FinishRestore().empty());
  }
  absl::StatusOr<v1::KeepReply> Keep(const std::vector<BlockKey>& keys) {
    return levers().Keep({.space = space_->fingerprint, .keys = keys, .duration = absl::Hours(1)});
  }
  Levers& levers() {
    if (levers_ == nullptr) {
      levers_ = std::make_unique<Levers>(Levers::Parts{.spaces = *spaces_,
                                                       .promoter = promoter_,
                                                       .kept = kept_,
                                                       .drain = drain_,
                                                       .sessions = sessions_,
                                                       .leases = leases_,
                                                       .log = log_,
                                                       .on_drain = [](bool) {}});
    }
    return *levers_;
  }

  std::ostringstream lines_;
  Logger log_{{.process = "test", .out = &lines_}};
  NodeMetrics metrics_{"n1"};
  MemorySpillStore store_;
  Promoter promoter_{&store_, metrics_, log_};
  std::unique_ptr<SpaceTable> spaces_;
  const Space* space_ = nullptr;
  KeptStems kept_;
  Drain drain_;
  Reservations reservations_;
  SessionTable sessions_{reservations_, 0, [](uint64_t) {}};
  LeaseTable leases_{8};
  std::unique_ptr<Levers> levers_;
};

// ---- Quotas

TEST_F(NodeLeversTest, SpillerAloneBringsAPoolUnderASmallerSsdQuota) {
  Begin(8);
  Spilled(10, 6);
  ASSERT_TRUE(levers().SetQuota({.tenant = "a", .ssd_bytes = 2 * kRecordBytes}).ok());
  EXPECT_EQ(store_.stats().records, 6u) << "what the spiller may be writing at this moment";
  Tracer tracer{{}, "stem-node", "n1", log_};
  LatestPublish latest;
  const RequestSinks sinks{.metrics = metrics_, .tracer = tracer, .log = {}};
  const Spiller spiller(*spaces_, store_, latest, sinks, log_);
  EXPECT_TRUE(Eventually([&] { return store_.stats().records == 2; })) << "without anything to write";
  EXPECT_EQ(pool().stats().blocks_ssd, 2u);
}

// ---- Keeping

TEST_F(NodeLeversTest, StemThatIsTooLongIsRefusedBeforeAnythingIsRead) {
  Begin(8);
  Spilled(10, 5);
  Publish(100, 4);
  const absl::StatusOr<v1::KeepReply> refused = Keep(Keys(10, 5));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().ToString(), HasSubstr("half of the pool"));
  for (uint64_t number = 10; number < 15; ++number) EXPECT_EQ(pool().Find(Name(number)), kSsd);
  EXPECT_EQ(Keep(Keys(500, 9)).status().code(), absl::StatusCode::kNotFound) << "none of it is held";
  EXPECT_EQ(Keep(Keys(10, 4))->blocks(), 4u);
}

TEST_F(NodeLeversTest, WhatIsHeldCountsAndNotWhatIsNamed) {
  Begin(8);
  Spilled(10, 3);
  EXPECT_EQ(Keep(Keys(10, 9))->blocks(), 3u);
}

TEST_F(NodeLeversTest, BlockThatARequestBringsIsWaitedFor) {
  Begin(16);
  Spilled(10, 5);
  std::vector<Filling> others;
  others.push_back(*Promoter::Begin(pool(), Name(12), absl::Now()));
  uint32_t blocks = 0;
  std::thread lever([&] {
    const absl::StatusOr<v1::KeepReply> kept = Keep(Keys(10, 5));
    EXPECT_TRUE(kept.ok()) << kept.status();
    if (kept.ok()) blocks = kept->blocks();
  });
  EXPECT_TRUE(Eventually([&] { return pool().stats().blocks_dram == 2; }));
  { const auto promoted = promoter_.Promote(pool(), std::move(others), nullptr); }
  lever.join();
  EXPECT_EQ(blocks, 5u);
  EXPECT_EQ(pool().stats().slots_kept, 5u);
}

TEST_F(NodeLeversTest, WhatWasBroughtStaysWhileTheRestComes) {
  Begin(60);
  Spilled(10, 30);
  Publish(1000, 40);
  std::vector<BlockPin> readers;
  for (uint64_t i = 0; i < 40; ++i) readers.push_back(pool().Pin(Name(1000 + i)));
  ASSERT_TRUE(pool().FinishSpill({}, false).empty());  // a disk that fails: nobody waits for room by way of it
  const absl::StatusOr<v1::KeepReply> kept = Keep(Keys(10, 30));
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->blocks(), 20u) << "as many as there were slots";
  for (uint64_t number = 10; number < 30; ++number) EXPECT_EQ(pool().Find(Name(number)), kDram) << number;
}

// ---- Evicting

std::vector<Part> HybridParts() {
  return {{.id = 0, .block_bytes = kBlockBytes},
          {.id = 1, .layer_first = 8, .block_bytes = kBlockBytes},
          {.id = 2, .group = GroupKind::kWindow, .window_tokens = 16, .layer_first = 16, .block_bytes = kBlockBytes}};
}

TEST_F(NodeLeversTest, StemLeavesWhicheverOfItsPartsAreHeld) {
  Begin(32, HybridParts());
  Publish(10, 5, 1);
  Publish(12, 3, 2, true);
  const absl::StatusOr<v1::EvictReply> evicted = levers().Evict({.space = std::nullopt, .last = Key(11)});
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->blocks(), 4u + 3u);
  EXPECT_EQ(pool().stats().blocks_dram, 1u);
  EXPECT_EQ(pool().Find(Name(10, 1)), kDram);
}

TEST_F(NodeLeversTest, EveryPartOfALongStemLeavesToItsEnd) {
  Begin(13'000, HybridParts());
  Publish(10, 4'200, 0);
  Publish(10, 4'200, 1);
  Publish(10, 4'200, 2, true);
  const absl::StatusOr<v1::EvictReply> evicted = levers().Evict({.space = space_->fingerprint, .last = Key(10)});
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->blocks(), 12'600u);
  EXPECT_EQ(pool().stats().blocks_dram, 0u);
}

}  // namespace
}  // namespace stem
