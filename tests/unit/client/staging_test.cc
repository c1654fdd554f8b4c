#include "client/staging.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

namespace stem {
namespace {

TEST(StagingTest, FirstFitIsAlignedAndBounded) {
  StagingAllocator staging(1024);
  EXPECT_EQ(staging.Allocate(1), 0u);
  EXPECT_EQ(staging.Allocate(65), 64u);
  EXPECT_EQ(staging.Allocate(64), 192u);
  EXPECT_EQ(staging.bytes_free(), 768u);
  EXPECT_EQ(staging.Allocate(769), std::nullopt);
  EXPECT_EQ(staging.Allocate(768), 256u);
  EXPECT_EQ(staging.Allocate(1), std::nullopt);
}

TEST(StagingTest, FreedNeighboursBecomeOneRange) {
  StagingAllocator staging(256);
  for (uint64_t offset = 0; offset < 256; offset += 64) ASSERT_EQ(staging.Allocate(64), offset);
  staging.Free(64, 64);
  staging.Free(192, 64);
  EXPECT_EQ(staging.Allocate(128), std::nullopt);  // 128 are free, apart
  staging.Free(128, 64);
  EXPECT_EQ(staging.Allocate(192), 64u);
  staging.Free(0, 64);
  staging.Free(64, 192);
  EXPECT_EQ(staging.Allocate(256), 0u);
}

TEST(StagingTest, NoStagingRefusesEverything) {
  StagingAllocator staging(0);
  EXPECT_EQ(staging.Allocate(1), std::nullopt);
}

TEST(StagingTest, RandomUseNeverOverlapsAndLosesNothing) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  StagingAllocator staging(1 << 16);
  std::vector<bool> taken(1 << 16);
  std::vector<std::pair<uint64_t, uint64_t>> live;
  for (int round = 0; round < 4000; ++round) {
    if (random() % 2 == 0) {
      const uint64_t bytes = 1 + random() % 5000;
      const std::optional<uint64_t> offset = staging.Allocate(bytes);
      if (!offset.has_value()) continue;
      ASSERT_LE(*offset + bytes, taken.size());
      for (uint64_t i = *offset; i < *offset + bytes; ++i) {
        ASSERT_FALSE(taken[i]);
        taken[i] = true;
      }
      live.emplace_back(*offset, bytes);
    } else if (!live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      const auto [offset, bytes] = live.back();
      live.pop_back();
      for (uint64_t i = offset; i < offset + bytes; ++i) taken[i] = false;
      staging.Free(offset, bytes);
    }
  }
  for (const auto& [offset, bytes] : live) staging.Free(offset, bytes);
  EXPECT_EQ(staging.bytes_free(), taken.size());
  EXPECT_EQ(staging.Allocate(taken.size()), 0u);
}

}  // namespace
}  // namespace stem
