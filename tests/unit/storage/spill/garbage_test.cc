#include "storage/spill/garbage.h"

#include <vector>

#include "gtest/gtest.h"

namespace stem {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(Garbage, LittleGarbageIsLeftAlone) {
  EXPECT_FALSE(WorthCollecting(kGarbageSlackBytes - 1, kGarbageSlackBytes));
  EXPECT_TRUE(WorthCollecting(kGarbageSlackBytes, kGarbageSlackBytes));
  EXPECT_FALSE(WorthCollecting(290 * kMiB, 1000 * kMiB));
  EXPECT_TRUE(WorthCollecting(310 * kMiB, 1000 * kMiB));
}

TEST(Garbage, OldFilesThatAreNearlyEmptyGoAndFullOnesStay) {
  const std::vector<BlobFileBytes> files = {
      {16 * kMiB, 16 * kMiB}, {16 * kMiB, 15 * kMiB}, {16 * kMiB, 14 * kMiB}, {16 * kMiB, 0}, {16 * kMiB, 0}};
  EXPECT_EQ(OldestToCollect(files, kMovedBytesMax), 3u);
}

TEST(Garbage, EvenGarbageIsTakenInRoundsOfBoundedCopying) {
  const std::vector<BlobFileBytes> files(100, {16 * kMiB, 5 * kMiB});
  EXPECT_EQ(OldestToCollect(files, 110 * kMiB), 10u);
  EXPECT_EQ(OldestToCollect(files, kMovedBytesMax), 93u);
}

TEST(Garbage, NothingIsMovedWithoutGarbageOrRoom) {
  const std::vector<BlobFileBytes> full(10, {16 * kMiB, 0});
  EXPECT_EQ(OldestToCollect(full, kMovedBytesMax), 0u);
  const std::vector<BlobFileBytes> half(10, {16 * kMiB, 8 * kMiB});
  EXPECT_EQ(OldestToCollect(half, 0), 0u);
  EXPECT_EQ(OldestToCollect({}, kMovedBytesMax), 0u);
}

}  // namespace
}  // namespace stem
