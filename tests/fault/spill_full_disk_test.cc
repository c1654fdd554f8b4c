// What the spill store does when the file system itself has no room, below its own reckoning of free space. A tmpfs of
// few inodes does it: bytes are free, but no new file can be made until others go.
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/spill/record.h"
#include "storage/spill/rocks_spill_store.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class SpillFullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=256m,nr_inodes=200") != 0) {
      GTEST_SKIP() << "needs a tmpfs of its own, and mount is not permitted: " << std::strerror(errno);
    }
    mounted_ = true;
    auto store = RocksSpillStore::Open({.directory = directory_.path(), .free_bytes_min = 0});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }

  void TearDown() override {
    store_.reset();
    if (mounted_) {
      EXPECT_EQ(umount(directory_.path().c_str()), 0) << std::strerror(errno);
    }
  }

  // Takes every inode that is left with an empty file.
  void TakeInodes() {
    while (true) {
      const std::string path = absl::StrCat(directory_.path(), "/filler", fillers_.size());
      const int fd = open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
      if (fd < 0) break;
      close(fd);
      fillers_.push_back(path);
    }
    ASSERT_EQ(errno, ENOSPC);
  }

  void GiveInodesBack() {
    for (const std::string& path : fillers_) ASSERT_EQ(unlink(path.c_str()), 0);
    fillers_.clear();
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
  std::vector<std::string> fillers_;
  std::unique_ptr<RocksSpillStore> store_;
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

TEST_F(SpillFullDisk, FlushThatFindsNoRoomFailsReadsGoOnAndWritingResumes) {
  ASSERT_TRUE(Put(0, 4).ok());
  for (int attempt = 0; attempt < 3; ++attempt) {
    TakeInodes();
    const absl::Status status = Put(100, 4);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("disk full at " + directory_.path()));
    EXPECT_TRUE(Holds(1));
  }
  GiveInodesBack();
  ASSERT_TRUE(Put(200, 4).ok());
  EXPECT_TRUE(Holds(1));
  EXPECT_TRUE(Holds(200));
  // What had failed was taken back: nobody counts on it, so it must not cost space for ever.
  EXPECT_FALSE(Holds(100));
  EXPECT_EQ(store_->bytes_used(), 8 * SpillRecordBytes(1 << 20));
}

}  // namespace
}  // namespace stem
