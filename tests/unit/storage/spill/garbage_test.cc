#include "storage/spill/garbage.h"

#include <vector>

#include "gtest/gtest.h"

namespace stem {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kRoom = UINT64_MAX;

TEST(Garbage, LittleGarbageIsLeftAlone) {
  EXPECT_FALSE(WorthCollecting(kGarbageSlackBytes - 1, kGarbageSlackBytes, kGarbageShareMax));
  EXPECT_TRUE(WorthCollecting(kGarbageSlackBytes, kGarbageSlackBytes, kGarbageShareMax));
  EXPECT_FALSE(WorthCollecting(290 * kMiB, 1000 * kMiB, kGarbageShareMax));
  EXPECT_TRUE(WorthCollecting(310 * kMiB, 1000 * kMiB, kGarbageShareMax));
}

TEST(Garbage, OldFilesThatAreNearlyEmptyGoAndFullOnesStay) {
  const std::vector<BlobFileBytes> files = {
      {16 * kMiB, 16 * kMiB}, {16 * kMiB, 15 * kMiB}, {16 * kMiB, 14 * kMiB}, {16 * kMiB, 0}, {16 * kMiB, 0}};
  EXPECT_EQ(OldestToCollect(files, kRoom), 3u);
}

TEST(Garbage, EvenGarbageIsTakenInRoundsOfBoundedCopying) {
  const std::vector<BlobFileBytes> files(100, {16 * kMiB, 5 * kMiB});
  EXPECT_EQ(OldestToCollect(files, kRoom), 46u);  // 46 * 11 MiB are just below 512
  EXPECT_EQ(OldestToCollect(files, 110 * kMiB), 10u);
}

TEST(Garbage, LongLivedOldFilesAreMovedOutOfTheWay) {
  std::vector<BlobFileBytes> files(8, {128 * kMiB, 0});
  files.insert(files.end(), 8, {128 * kMiB, 100 * kMiB});
  EXPECT_EQ(OldestToCollect(files, kRoom), 4u);
  files[0].garbage_bytes = 1 * kMiB;  // a crumb must not make every round a tiny one
  EXPECT_EQ(OldestToCollect(files, kRoom), 4u);
}

TEST(Garbage, OneFileLargerThanARoundIsTakenAlone) {
  const std::vector<BlobFileBytes> files(3, {1024 * kMiB, 200 * kMiB});
  EXPECT_EQ(OldestToCollect(files, kRoom), 1u);
}

TEST(Garbage, NothingIsMovedWithoutRoom) {
  const std::vector<BlobFileBytes> files(10, {16 * kMiB, 8 * kMiB});
  EXPECT_EQ(OldestToCollect(files, 8 * kMiB - 1), 0u);
  EXPECT_EQ(OldestToCollect(files, 8 * kMiB), 1u);
  EXPECT_EQ(OldestToCollect({}, kRoom), 0u);
}

}  // namespace
}  // namespace stem
