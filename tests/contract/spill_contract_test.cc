// What every SpillStore must do.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/spill/disk_spill_store.h"
#include "tests/support/memory_spill_store.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class SpillContract : public ::testing::TestWithParam<std::string> {
 protected:
  SpillContract() { Reopen(); }

  // A restart of the process, as far as the store keeps anything over one.
  void Reopen() {
    if (GetParam() == "memory") {
      if (store_ == nullptr) store_ = std::make_unique<MemorySpillStore>();
      return;
    }
    store_.reset();
    auto store = DiskSpillStore::Open({.directory = directory_.path(), .free_bytes_min = 0});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  SpillStore& store() { return *store_; }

  absl::Status PutAll(const std::vector<SpillBlock>& blocks) { return store_->Put(WritesOf(blocks)); }

  bool Holds(const SpillBlock& block) { return SpillReading(*store_, block.name(), block.meta().length).Is(block); }

  absl::flat_hash_map<BlockName, BlockMeta> Visited() {
    absl::flat_hash_map<BlockName, BlockMeta> metas;
    EXPECT_TRUE(store_->ForEach([&](const BlockMeta& meta) { metas[meta.name] = meta; }).ok());
    return metas;
  }

 private:
  TempDirectory directory_;
  std::unique_ptr<SpillStore> store_;
};

TEST_P(SpillContract, PutBlockIsReadBackWithItsMetaAndHashes) {
  const SpillBlock first(0);
  const SpillBlock second(1);
  ASSERT_TRUE(PutAll({first, second}).ok());
  EXPECT_TRUE(Holds(first));
  EXPECT_TRUE(Holds(second));
  EXPECT_EQ(SpillReading(store(), first.name(), 64 << 10).meta().parent, std::nullopt);
  EXPECT_EQ(SpillReading(store(), second.name(), 64 << 10).meta().parent, first.name().key);
}

TEST_P(SpillContract, EverySizeFromOneByteToFourMebibytesSurvives) {
  std::vector<SpillBlock> blocks;
  for (const uint64_t length : {1ULL, 2ULL, 4095ULL, 4096ULL, 4097ULL, 65535ULL, 65536ULL, 65537ULL, 1000003ULL,
                                2ULL << 20, (4ULL << 20) - 1, 4ULL << 20}) {
    blocks.emplace_back(blocks.size(), length);
  }
  ASSERT_TRUE(PutAll(blocks).ok());
  for (const SpillBlock& block : blocks) EXPECT_TRUE(Holds(block)) << block.meta().length;
  Reopen();
  for (const SpillBlock& block : blocks) EXPECT_TRUE(Holds(block)) << block.meta().length;
}

TEST_P(SpillContract, LargeBatchIsWholeAfterReopen) {
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 256; ++i) blocks.emplace_back(i);
  ASSERT_TRUE(PutAll(blocks).ok());
  Reopen();
  for (const SpillBlock& block : blocks) ASSERT_TRUE(Holds(block));
  const auto visited = Visited();
  ASSERT_EQ(visited.size(), blocks.size());
  for (const SpillBlock& block : blocks) EXPECT_EQ(visited.at(block.name()), block.meta());
}

TEST_P(SpillContract, AbsentKeyIsNotFoundAndItsNeighboursAreRead) {
  const SpillBlock held(1);
  ASSERT_TRUE(PutAll({held}).ok());
  std::vector<std::byte> payload(2 * held.meta().length);
  std::vector<uint64_t> hashes(2 * held.chunk_hashes().size());
  const auto memory = std::span(payload);
  const auto hash_memory = std::span(hashes);
  std::vector<SpillRead> reads(2);
  for (size_t i = 0; i < 2; ++i) {
    reads[i].name = SpillBlock::NameOf(i);
    reads[i].payload = memory.subspan(i * held.meta().length, held.meta().length);
    reads[i].chunk_hashes = hash_memory.subspan(i * held.chunk_hashes().size(), held.chunk_hashes().size());
  }
  store().Get(reads);
  EXPECT_EQ(reads[0].status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(reads[1].status.ok());
  EXPECT_EQ(reads[1].meta, held.meta());
}

TEST_P(SpillContract, SameKeyOfAnotherNamespaceIsNotFound) {
  const SpillBlock block(1);
  ASSERT_TRUE(PutAll({block}).ok());
  BlockName other = block.name();
  other.space.low ^= 1;
  EXPECT_EQ(SpillReading(store(), other, block.meta().length).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(SpillContract, LaterRecordReplacesEarlierOne) {
  ASSERT_TRUE(PutAll({SpillBlock(1, 5000, 1)}).ok());
  const SpillBlock later(1, 70000, 2);
  ASSERT_TRUE(PutAll({later}).ok());
  EXPECT_TRUE(Holds(later));
  EXPECT_EQ(store().stats().live_bytes, SpillRecordBytes(70000));
  EXPECT_EQ(store().stats().records, 1u);
  Reopen();
  EXPECT_TRUE(Holds(later));
  EXPECT_EQ(Visited().size(), 1u);
}

TEST_P(SpillContract, ReadOfAnotherLengthThanTheRecordsIsDataLoss) {
  ASSERT_TRUE(PutAll({SpillBlock(1, 5000)}).ok());
  EXPECT_EQ(SpillReading(store(), SpillBlock::NameOf(1), 5001).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store().stats().corrupt_records, 1u);
}

TEST_P(SpillContract, RemovedBlockIsGoneAndStaysGoneAfterReopen) {
  ASSERT_TRUE(PutAll({SpillBlock(1), SpillBlock(2)}).ok());
  const std::vector<SpillRecordId> records = {SpillBlock::RecordOf(1), SpillBlock::RecordOf(1), SpillBlock::RecordOf(9)};
  ASSERT_TRUE(store().Remove(records).ok());
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(SpillReading(store(), SpillBlock::NameOf(1), 64 << 10).status().code(), absl::StatusCode::kNotFound);
    EXPECT_TRUE(Holds(SpillBlock(2)));
    EXPECT_EQ(Visited().size(), 1u);
    EXPECT_EQ(store().stats().live_bytes, SpillRecordBytes(64 << 10));
    ASSERT_TRUE(store().Put({}).ok());
    Reopen();
  }
}

TEST_P(SpillContract, RemovalOfAnEarlierRecordLeavesTheLaterOneOfItsName) {
  ASSERT_TRUE(PutAll({SpillBlock(1, 5000, 1)}).ok());
  const SpillBlock later(1, 5000, 2);
  ASSERT_TRUE(PutAll({later}).ok());
  const SpillRecordId earlier = SpillBlock::RecordOf(1, 1);
  ASSERT_TRUE(store().Remove(std::span(&earlier, 1)).ok());
  EXPECT_TRUE(Holds(later));
  EXPECT_EQ(store().stats().records, 1u);
  ASSERT_TRUE(store().Put({}).ok());
  Reopen();
  EXPECT_TRUE(Holds(later));
}

TEST_P(SpillContract, BytesUsedIsTheSumOfLiveRecords) {
  std::vector<SpillBlock> blocks;
  uint64_t expected_bytes = 0;
  for (uint64_t i = 0; i < 40; ++i) {
    blocks.emplace_back(i, 1000 * (i + 1));
    expected_bytes += SpillRecordBytes(1000 * (i + 1));
  }
  ASSERT_TRUE(PutAll(blocks).ok());
  EXPECT_EQ(store().stats().live_bytes, expected_bytes);
  Reopen();
  EXPECT_EQ(store().stats().live_bytes, expected_bytes);
  EXPECT_EQ(store().stats().records, 40u);
}

TEST_P(SpillContract, StatsCountWritesAndReads) {
  ASSERT_TRUE(PutAll({SpillBlock(1), SpillBlock(2)}).ok());
  ASSERT_TRUE(Holds(SpillBlock(1)));
  EXPECT_FALSE(Holds(SpillBlock(3)));
  const SpillStats stats = store().stats();
  EXPECT_EQ(stats.writes, 2u);
  EXPECT_EQ(stats.write_bytes, 2 * (64u << 10));
  EXPECT_EQ(stats.reads, 1u);
  EXPECT_EQ(stats.read_bytes, 64u << 10);
  EXPECT_GE(stats.disk_write_bytes, stats.write_bytes);
  EXPECT_LT(stats.disk_write_bytes, stats.write_bytes * 3 / 2);
  EXPECT_GE(stats.disk_bytes, stats.live_bytes);
}

TEST_P(SpillContract, BadWriteIsRefusedWholeAndNamesWhatIsWrong) {
  const SpillBlock good(1);
  std::vector<SpillWrite> writes = {good.write(), good.write()};
  EXPECT_THAT(std::string(store().Put(writes).message()), HasSubstr("twice in one call"));

  const SpillBlock other(2);
  writes[1] = other.write();
  writes[1].payload = writes[1].payload.first(100);
  EXPECT_THAT(std::string(store().Put(writes).message()), HasSubstr("payload of 100 bytes, length says 65536"));

  writes[1] = other.write();
  writes[1].meta.length = 0;
  EXPECT_EQ(store().Put(writes).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(Holds(good));
  EXPECT_EQ(store().stats().live_bytes, 0u);
}

TEST_P(SpillContract, ReadWithTheWrongRoomForHashesIsRefused) {
  ASSERT_TRUE(PutAll({SpillBlock(1)}).ok());
  std::vector<std::byte> payload(64 << 10);
  std::vector<uint64_t> hashes(15);
  SpillRead read{.name = SpillBlock::NameOf(1), .payload = payload, .chunk_hashes = hashes, .meta = {}, .status = {}};
  store().Get(std::span(&read, 1));
  EXPECT_EQ(read.status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(SpillContract, ReadersSeeWholeBlocksWhileWritesAndRemovalsGoOn) {
  constexpr uint64_t kBlocks = 32;
  constexpr uint64_t kGenerations = 12;
  std::vector<SpillBlock> first;
  for (uint64_t i = 0; i < kBlocks; ++i) first.emplace_back(i, 20000, 0);
  ASSERT_TRUE(PutAll(first).ok());

  std::atomic<bool> done{false};
  std::atomic<uint64_t> torn{0};
  std::atomic<uint64_t> seen{0};
  const auto reader = [&](uint64_t seed) {
    for (uint64_t i = seed; !done.load() || seen.load() < kBlocks; ++i) {
      const SpillReading reading(store(), SpillBlock::NameOf(i % kBlocks), 20000);
      if (absl::IsNotFound(reading.status())) continue;
      seen.fetch_add(1);
      if (!reading.Is(SpillBlock(i % kBlocks, 20000, reading.meta().generation))) torn.fetch_add(1);
    }
  };
  std::thread one(reader, 0);
  std::thread two(reader, 7);
  for (uint64_t generation = 1; generation <= kGenerations; ++generation) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = 0; i < kBlocks; ++i) blocks.emplace_back(i, 20000, generation);
    EXPECT_TRUE(PutAll(blocks).ok());
    const SpillRecordId gone = SpillBlock::RecordOf(generation % kBlocks, generation);
    EXPECT_TRUE(store().Remove(std::span(&gone, 1)).ok());
  }
  done = true;
  one.join();
  two.join();
  EXPECT_EQ(torn.load(), 0u);
  EXPECT_EQ(store().stats().records, kBlocks - 1);
}

INSTANTIATE_TEST_SUITE_P(Stores, SpillContract, ::testing::Values("memory", "disk"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace stem
