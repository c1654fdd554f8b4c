// A load that several threads share ends as one thread's would: same bytes, same leading run, same reason.
#include <algorithm>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 1 << 20;  // a thread is worth it from here on
constexpr uint32_t kBlocks = 9;

class LoadThreadsTest : public ::testing::TestWithParam<uint32_t> {
 protected:
  LoadThreadsTest() : cluster_({.nodes = 1, .dram_bytes = 24 << 20}) {
    writer_ = cluster_.Connect(0, TestSpec(kBlockBytes), 16 << 20);
    keys_ = testing::ChainOf(*writer_, kBlocks);
    EXPECT_EQ(testing::Publish(*writer_, keys_, testing::FillWithPosition), kBlocks);
    reader_ = *CacheClient::Connect({.node = "unix://" + cluster_.socket(0),
                                     .space = TestSpec(kBlockBytes),
                                     .staging_bytes = 0,
                                     .client_name = "reader",
                                     .shared_group = "",
                                     .local_proof = LocalProof::kFull,
                                     .load_threads = GetParam()},
                                    Soon());
    for (uint32_t block = 0; block < kBlocks; ++block) memory_.emplace_back(kBlockBytes, std::byte{0xEE});
  }

  LoadResult Load() {
    const Stem stem = *reader_->Acquire(keys_, {}, Soon());
    return reader_->Load(stem, 0, std::vector<std::span<std::byte>>(memory_.begin(), memory_.end()), Soon());
  }
  void ExpectBlocks(uint32_t count) {
    for (uint32_t block = 0; block < count; ++block) {
      EXPECT_EQ(std::ranges::count(memory_[block], static_cast<std::byte>(block)), ptrdiff_t{kBlockBytes}) << block;
    }
  }

  InProcessCluster cluster_;
  std::unique_ptr<CacheClient> writer_, reader_;
  std::vector<BlockKey> keys_;
  std::vector<std::vector<std::byte>> memory_;
};

TEST_P(LoadThreadsTest, EveryBlockIsLoaded) {
  const LoadResult result = Load();
  EXPECT_EQ(result.blocks_loaded, kBlocks) << result.status;
  EXPECT_TRUE(result.status.ok());
  ExpectBlocks(kBlocks);
}

TEST_P(LoadThreadsTest, AWrongByteEndsTheRunWhereItIs) {
  GroupMemory& memory = *cluster_.node(0).memories()[0];
  {
    const BlockPin pin = memory.pool->Pin({writer_->fingerprint(), keys_[5]});
    ASSERT_TRUE(pin.valid());
    const SlotGeometry& geometry = memory.pool->geometry();
    memory.arena.bytes()[pin.slot() * geometry.slot_bytes + geometry.payload_offset] ^= std::byte{1};
  }
  const LoadResult result = Load();
  EXPECT_EQ(result.blocks_loaded, 5u);
  EXPECT_TRUE(absl::IsDataLoss(result.status)) << result.status;
  ExpectBlocks(5);
}

INSTANTIATE_TEST_SUITE_P(Threads, LoadThreadsTest, ::testing::Values(1, 2, 3, 16));

TEST(LoadThreadsOptionTest, NoneAndTooManyAreRefused) {
  for (const uint32_t threads : {0u, 17u}) {
    const auto client = CacheClient::Connect(
        {.node = "unix:///nowhere", .space = TestSpec(kBlockBytes), .client_name = "", .shared_group = "", .load_threads = threads}, Soon());
    EXPECT_TRUE(absl::IsInvalidArgument(client.status())) << client.status();
  }
}

}  // namespace
}  // namespace stem
