// With the engine's speed known, a stem ends where bringing the rest takes longer than computing it.
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;
using ::testing::ElementsAre;

constexpr uint64_t kBlockBytes = 65536;

MissRun Missed(uint32_t first, uint32_t count, v1::MissCause cause) { return {.first = first, .count = count, .cause = cause}; }

// Node 0 holds 12 blocks of the chain, node 1 the first 4 of them, and it has read from node 0 before.
class FetchOrRecomputeTest : public ::testing::Test {
 protected:
  FetchOrRecomputeTest() : cluster_({.nodes = 2, .map_host_peers = false}) {
    writer_ = cluster_.Connect(0, TestSpec(kBlockBytes));
    reader_ = cluster_.Connect(1, TestSpec(kBlockBytes));
    const std::vector<BlockKey> other = ChainOf(*writer_, 8, 700000);
    EXPECT_EQ(testing::Publish(*writer_, other, FillWithPosition), 8u);
    keys_ = ChainOf(*writer_, 15);
    EXPECT_EQ(testing::Publish(*writer_, {keys_.begin(), keys_.begin() + 12}, FillWithPosition), 12u);
    EXPECT_EQ(testing::Publish(*reader_, {keys_.begin(), keys_.begin() + 4}, FillWithPosition), 4u);
    cluster_.Settle();
    const Stem stem = *reader_->Acquire(other, {}, Soon());
    std::vector<std::vector<std::byte>> memory(8, std::vector<std::byte>(kBlockBytes));
    EXPECT_TRUE(reader_->Load(stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon()).status.ok());
  }

  Stem Acquire(absl::Duration block_compute) {
    AcquireOptions options;
    options.block_compute = block_compute;
    return *reader_->Acquire(keys_, options, Soon());
  }

  InProcessCluster cluster_;
  std::unique_ptr<CacheClient> writer_, reader_;
  std::vector<BlockKey> keys_;
};

TEST_F(FetchOrRecomputeTest, AFastEngineIsGivenOnlyWhatIsHere) {
  const Stem stem = Acquire(absl::Microseconds(1));
  EXPECT_EQ(stem.matched_blocks(), 4u);
  EXPECT_THAT(stem.misses(), ElementsAre(Missed(4, 8, v1::MISS_CAUSE_RECOMPUTE_CHEAPER), Missed(12, 3, v1::MISS_CAUSE_COLD)));
}

TEST_F(FetchOrRecomputeTest, ASlowEngineIsGivenAllThatIsHeld) {
  const Stem stem = Acquire(absl::Seconds(10));
  EXPECT_EQ(stem.matched_blocks(), 12u);
  EXPECT_THAT(stem.misses(), ElementsAre(Missed(12, 3, v1::MISS_CAUSE_COLD)));
}

TEST_F(FetchOrRecomputeTest, AnEngineThatSaysNothingIsGivenAllThatIsHeld) {
  EXPECT_EQ(Acquire(absl::ZeroDuration()).matched_blocks(), 12u);
}

TEST_F(FetchOrRecomputeTest, ANonsensicalSpeedIsRefused) {
  AcquireOptions options;
  options.block_compute = absl::Minutes(2);
  EXPECT_TRUE(absl::IsInvalidArgument(reader_->Acquire(keys_, options, Soon()).status()));
}

}  // namespace
}  // namespace stem
