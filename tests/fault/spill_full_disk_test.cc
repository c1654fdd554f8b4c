// What the spill store does when the disk has no room, or fails it in the middle of a write.
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/spill/disk_spill_store.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class SpillFullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=256m") != 0) {
      GTEST_SKIP() << "needs a tmpfs of its own, and mount is not permitted: " << std::strerror(errno);
    }
    mounted_ = true;
    auto store = DiskSpillStore::Open({.directory = directory_.path(), .free_bytes_min = 0});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void TearDown() override {
    store_.reset();
    if (mounted_) {
      EXPECT_EQ(umount(directory_.path().c_str()), 0) << std::strerror(errno);
    }
  }

  absl::Status Put(uint64_t first, uint64_t count) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = first; i < first + count; ++i) blocks.emplace_back(i, 1 << 20);
    return store_->Put(WritesOf(blocks));
  }

  bool Holds(uint64_t number) {
    const SpillBlock block(number, 1 << 20);
    return SpillReading(*store_, block.name(), 1 << 20).Is(block);
  }

  TempDirectory directory_;
  bool mounted_ = false;
  std::unique_ptr<DiskSpillStore> store_;
};

TEST_F(SpillFullDisk, LastBytesAreRefusedWithTheNumbersAndRoomIsUsedWhenItComes) {
  uint64_t blocks = 0;
  absl::Status status;
  while ((status = Put(blocks, 8)).ok()) blocks += 8;
  ASSERT_GT(blocks, 100u);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk full at " + directory_.path() + ": needs "));
  for (uint64_t i = 0; i < blocks; i += 7) EXPECT_TRUE(Holds(i)) << i;
  ASSERT_EQ(mount("tmpfs", directory_.path().c_str(), "tmpfs", MS_REMOUNT, "size=512m"), 0) << std::strerror(errno);
  EXPECT_TRUE(Put(blocks, 8).ok());
  EXPECT_TRUE(Holds(blocks));
}

// Holes hold the block, but none alone; what the disk still has is the reserve's, so pieces it is.
TEST_F(SpillFullDisk, ReserveIsNotEatenWhereHolesWouldDo) {
  constexpr uint64_t kBlocks = 64;
  ASSERT_TRUE(Put(0, kBlocks).ok());
  std::vector<SpillRecordId> odd;
  for (uint64_t i = 1; i < kBlocks; i += 2) odd.push_back(SpillBlock::RecordOf(i));
  ASSERT_TRUE(store_->Remove(odd).ok());
  const auto open = [&](uint64_t free_bytes_min) {
    store_.reset();
    auto store = DiskSpillStore::Open({.directory = directory_.path(), .free_bytes_min = free_bytes_min});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    ASSERT_TRUE(Put(1, 1).ok());  // RocksDB takes room for its log with the first
  };
  const auto free_bytes = [&] {
    struct statvfs info = {};
    EXPECT_EQ(statvfs(directory_.path().c_str(), &info), 0);
    return uint64_t{info.f_bavail} * info.f_frsize;
  };
  open(0);
  const uint64_t reserve = free_bytes() - (4 << 20);
  open(reserve);
  ASSERT_GT(free_bytes(), reserve + (3 << 20));
  ASSERT_LT(free_bytes(), reserve + (5 << 20));
  const SpillBlock large(1000, 12 << 20);
  ASSERT_TRUE(store_->Put(std::vector<SpillWrite>{large.write()}).ok());
  EXPECT_TRUE(SpillReading(*store_, large.name(), 12 << 20).Is(large));
  EXPECT_GE(free_bytes(), reserve);
}

// A file that may grow no further stands for any error of the disk: the index's log meets it in the middle of a Put.
TEST(SpillFailingDisk, PutThatFailsInTheMiddleIsTakenBackReadsGoOnAndWritingResumes) {
  const TempDirectory directory;
  ASSERT_NE(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  struct rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlim_t before = limit.rlim_cur;
  auto store = DiskSpillStore::Open({.directory = directory.path(), .free_bytes_min = 0, .file_bytes_max = 512 << 10});
  ASSERT_TRUE(store.ok()) << store.status();
  const SpillBlock held(1000, 4096);
  ASSERT_TRUE((*store)->Put(std::vector<SpillWrite>{held.write()}).ok());
  for (int attempt = 0; attempt < 3; ++attempt) {
    limit.rlim_cur = (attempt + 1) << 20;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    std::vector<SpillBlock> blocks;
    for (uint64_t i = 0; i < 64; ++i) blocks.emplace_back(i, 4096);
    absl::Status status;
    for (int puts = 0; status.ok() && puts < 100000; ++puts) status = (*store)->Put(WritesOf(blocks));
    EXPECT_FALSE(status.ok());
    EXPECT_TRUE(SpillReading(**store, held.name(), 4096).Is(held)) << status;
    EXPECT_FALSE(SpillReading(**store, SpillBlock::NameOf(1), 4096).status().ok()) << "nobody counts on it";
    EXPECT_EQ((*store)->stats().records, 1u);
    limit.rlim_cur = before;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ASSERT_TRUE((*store)->Put(std::vector<SpillWrite>{SpillBlock(2, 4096).write()}).ok()) << status;
    EXPECT_EQ((*store)->stats().records, 2u);
    ASSERT_TRUE((*store)->Remove(std::vector<SpillRecordId>{SpillBlock::RecordOf(2)}).ok());
  }
  store->reset();
  store = DiskSpillStore::Open({.directory = directory.path(), .free_bytes_min = 0});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->stats().records, 1u) << "what had failed stays taken back";
  EXPECT_TRUE(SpillReading(**store, held.name(), 4096).Is(held));
}

}  // namespace
}  // namespace stem
