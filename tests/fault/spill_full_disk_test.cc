// What the spill store does when the disk has no room, or fails it in the middle of a write.
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

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
    ASSERT_TRUE((*store)->Remove(std::vector<BlockName>{SpillBlock::NameOf(2)}).ok());
  }
  store->reset();
  store = DiskSpillStore::Open({.directory = directory.path(), .free_bytes_min = 0});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->stats().records, 1u) << "what had failed stays taken back";
  EXPECT_TRUE(SpillReading(**store, held.name(), 4096).Is(held));
}

}  // namespace
}  // namespace stem
