// What the spill store does when the disk cannot read a page, does not answer, or loses what it was told to flush. The calls
// to the system below stand before libc's own, for the store and for RocksDB.
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "storage/spill/disk_spill_store.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace {

struct Disk {
  std::atomic<int> read_error{0};     // of reads that touch bad_byte
  std::atomic<int64_t> bad_byte{-1};  // of the payload file; -1 = all
  std::atomic<uint64_t> write_bytes_max{0};
  std::atomic<bool> loses_log{false};  // the next flush of RocksDB's log fails, and what it should have flushed is gone
  std::mutex mutex;
  std::map<std::string, off_t> flushed;  // by log: bytes

  void Reset() {
    read_error = 0;
    bad_byte = -1;
    write_bytes_max = 0;
    loses_log = false;
  }
};

Disk& TheDisk() {
  static Disk& disk = *new Disk();
  return disk;
}

std::string PathOf(int fd) {
  char path[PATH_MAX];
  const ssize_t bytes = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof(path));
  return {path, static_cast<size_t>(std::max<ssize_t>(bytes, 0))};
}

int64_t BytesOf(const iovec* pieces, int count) {
  int64_t bytes = 0;
  for (int i = 0; i < count; ++i) bytes += static_cast<int64_t>(pieces[i].iov_len);
  return bytes;
}

}  // namespace

extern "C" ssize_t preadv(int fd, const iovec* pieces, int count, off_t at) {
  const int64_t bad = TheDisk().bad_byte;
  if (const int error = TheDisk().read_error; error != 0 && (bad < 0 || (at <= bad && bad < at + BytesOf(pieces, count)))) {
    errno = error;
    return -1;
  }
  return syscall(SYS_preadv, fd, pieces, count, at, 0);
}

extern "C" ssize_t pwritev(int fd, const iovec* pieces, int count, off_t at) {
  const auto bytes = static_cast<uint64_t>(BytesOf(pieces, count));
  uint64_t most = TheDisk().write_bytes_max;
  while (bytes > most && !TheDisk().write_bytes_max.compare_exchange_weak(most, bytes)) {
  }
  return syscall(SYS_pwritev, fd, pieces, count, at, 0);
}

extern "C" int fdatasync(int fd) {
  const std::string path = PathOf(fd);
  if (!absl::EndsWith(path, ".log")) return static_cast<int>(syscall(SYS_fdatasync, fd));
  Disk& disk = TheDisk();
  const std::lock_guard lock(disk.mutex);
  if (disk.loses_log.exchange(false)) {
    (void)!ftruncate(fd, disk.flushed[path]);
    errno = EIO;
    return -1;
  }
  disk.flushed[path] = lseek(fd, 0, SEEK_END);
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

namespace stem {
namespace {

constexpr uint64_t kLength = 64 << 10;

class SpillBadDisk : public ::testing::Test {
 protected:
  void SetUp() override { TheDisk().Reset(); }
  void TearDown() override { TheDisk().Reset(); }

  std::unique_ptr<DiskSpillStore> Open(uint64_t file_bytes_max = 1 << 30) {
    auto store = DiskSpillStore::Open(
        {.directory = directory_.path() + "/spill", .free_bytes_min = 0, .file_bytes_max = file_bytes_max});
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  static std::vector<SpillBlock> Blocks(uint64_t first, uint64_t count) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = first; i < first + count; ++i) blocks.emplace_back(i, kLength);
    return blocks;
  }

  // Where the payload file holds the first bytes of `block`.
  int64_t PlaceOf(const SpillBlock& block) {
    std::ifstream file(directory_.path() + "/spill/payload", std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    return static_cast<int64_t>(bytes.find(std::string(reinterpret_cast<const char*>(block.payload().data()), 64)));
  }

  // The status of each of `blocks` when all are read in one sweep; OK only with the right bytes.
  static std::vector<absl::StatusCode> Sweep(DiskSpillStore& store, const std::vector<SpillBlock>& blocks) {
    std::vector<std::vector<std::byte>> payloads(blocks.size());
    std::vector<std::vector<uint64_t>> hashes(blocks.size());
    std::vector<SpillRead> reads(blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i) {
      payloads[i].resize(blocks[i].meta().length);
      hashes[i].resize(ChunkCount(blocks[i].meta().length));
      reads[i].name = blocks[i].name();
      reads[i].payload = payloads[i];
      reads[i].chunk_hashes = hashes[i];
    }
    store.Get(reads);
    std::vector<absl::StatusCode> codes;
    for (size_t i = 0; i < blocks.size(); ++i) {
      codes.push_back(reads[i].status.code());
      if (!reads[i].status.ok()) continue;
      EXPECT_EQ(payloads[i], blocks[i].payload()) << i;
    }
    return codes;
  }

  TempDirectory directory_;
};

TEST_F(SpillBadDisk, BadSectorIsOneRecordsLossAndItsNeighboursAreRead) {
  const auto store = Open();
  const std::vector<SpillBlock> blocks = Blocks(0, 8);
  ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  TheDisk().bad_byte = PlaceOf(blocks[3]) + 5000;
  TheDisk().read_error = EIO;
  std::vector<absl::StatusCode> expected(8, absl::StatusCode::kOk);
  expected[3] = absl::StatusCode::kDataLoss;
  EXPECT_EQ(Sweep(*store, blocks), expected);
  EXPECT_EQ(store->stats().corrupt_records, 1u);
  EXPECT_EQ(store->stats().reads, 7u);
}

TEST_F(SpillBadDisk, DiskThatDoesNotAnswerLosesNothing) {
  const auto store = Open();
  const std::vector<SpillBlock> blocks = Blocks(0, 8);
  ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  TheDisk().read_error = ETIMEDOUT;
  EXPECT_EQ(Sweep(*store, blocks), std::vector<absl::StatusCode>(8, absl::StatusCode::kUnavailable));
  EXPECT_EQ(store->stats().corrupt_records, 0u);
  TheDisk().read_error = 0;
  EXPECT_EQ(Sweep(*store, blocks), std::vector<absl::StatusCode>(8, absl::StatusCode::kOk));
}

TEST_F(SpillBadDisk, NoRequestToWriteIsLargerThanAMebibyte) {
  const auto store = Open();
  std::vector<SpillBlock> blocks = Blocks(0, 20);
  blocks.emplace_back(20, (4 << 20) + 5000);
  blocks.emplace_back(21, 300 << 10);
  blocks.emplace_back(22, (2 << 20) + 4096);
  ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  EXPECT_EQ(TheDisk().write_bytes_max, 1u << 20);
  EXPECT_EQ(Sweep(*store, blocks), std::vector<absl::StatusCode>(23, absl::StatusCode::kOk));
}

// The removals' flush fails and takes them along: their entries are back in the log when it is opened anew, and their pages
// must not be another's while they are.
TEST_F(SpillBadDisk, RemovalsWhoseFlushFailedNeverComeBackIntoPagesOfOthers) {
  constexpr uint64_t kHeld = 32;
  const std::vector<SpillBlock> later = Blocks(2 * kHeld, kHeld);
  {
    const auto store = Open(kHeld * kLength);
    ASSERT_TRUE(store->Put(WritesOf(Blocks(0, kHeld))).ok());
    std::vector<SpillRecordId> records;
    for (uint64_t i = 0; i < kHeld; ++i) records.push_back(SpillBlock::RecordOf(i));
    ASSERT_TRUE(store->Remove(records).ok());
    TheDisk().loses_log = true;
    EXPECT_FALSE(store->Put(WritesOf(Blocks(kHeld, kHeld))).ok());
    ASSERT_FALSE(TheDisk().loses_log) << "the log was not flushed";
    ASSERT_TRUE(store->Put(WritesOf(later)).ok());
  }
  const auto store = Open(kHeld * kLength);
  EXPECT_EQ(Sweep(*store, later), std::vector<absl::StatusCode>(kHeld, absl::StatusCode::kOk));
  EXPECT_EQ(store->stats().records, kHeld);
  EXPECT_EQ(store->stats().corrupt_records, 0u);
}

}  // namespace
}  // namespace stem
