#include "storage/spill/rocks_spill_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"
#include "storage/spill/record.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class RocksSpillStoreTest : public ::testing::Test {
 protected:
  std::string path() const { return directory_.path() + "/spill"; }

  absl::StatusOr<std::unique_ptr<RocksSpillStore>> Open() const {
    return RocksSpillStore::Open({.directory = path(), .free_bytes_min = 0});
  }

  std::unique_ptr<RocksSpillStore> MustOpen() const {
    auto store = Open();
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  void PutAndClose(const std::vector<SpillBlock>& blocks) const {
    const auto store = MustOpen();
    ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  }

  // Files of the database that end in `suffix`, oldest first.
  std::vector<std::string> Files(const std::string& suffix) const {
    std::vector<std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(path() + "/db")) {
      if (entry.path().extension() == suffix) files.push_back(entry.path());
    }
    std::ranges::sort(files);
    return files;
  }

  // Writes records past the store, as a broken or newer one would: keys and values as they lie on disk.
  void Plant(const std::string& family, const BlockName& name, const std::string& value) const {
    rocksdb::DB* raw = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> families;
    rocksdb::ColumnFamilyOptions blobs;
    blobs.enable_blob_files = true;
    ASSERT_TRUE(rocksdb::DB::Open({}, path() + "/db", {{"default", {}}, {"payload", blobs}}, &families, &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    const SpillKey key = EncodeSpillKey(name);
    EXPECT_TRUE(db->Put({}, families[family == "payload" ? 1 : 0], {key.data(), key.size()}, value).ok());
    for (rocksdb::ColumnFamilyHandle* handle : families) EXPECT_TRUE(db->DestroyColumnFamilyHandle(handle).ok());
  }

  static bool Holds(RocksSpillStore& store, const SpillBlock& block) {
    return SpillReading(store, block.name(), block.meta().length).Is(block);
  }

 private:
  TempDirectory directory_;
};

std::string Chars(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Overwrite(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

TEST_F(RocksSpillStoreTest, AlteredPayloadByteOnDiskLosesThatRecordOnly) {
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 8; ++i) blocks.emplace_back(i);
  PutAndClose(blocks);
  const std::vector<std::string> files = Files(".blob");
  ASSERT_EQ(files.size(), 1u);
  std::string bytes = Contents(files[0]);
  const std::string middle(reinterpret_cast<const char*>(blocks[3].payload().data()) + 30000, 64);
  const size_t at = bytes.find(middle);
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  Overwrite(files[0], bytes);

  const auto store = MustOpen();
  for (uint64_t i = 0; i < blocks.size(); ++i) {
    const SpillReading reading(*store, blocks[i].name(), blocks[i].meta().length);
    EXPECT_EQ(reading.status().code(), i == 3 ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
  }
  EXPECT_EQ(store->stats().corrupt_records, 1u);
}

TEST_F(RocksSpillStoreTest, TruncatedBlobFileLosesItsRecordsOnly) {
  const SpillBlock first(1);
  const SpillBlock second(2);
  PutAndClose({first});
  PutAndClose({second});
  const std::vector<std::string> files = Files(".blob");
  ASSERT_EQ(files.size(), 2u);
  std::filesystem::resize_file(files[0], std::filesystem::file_size(files[0]) / 2);
  const auto store = MustOpen();
  EXPECT_EQ(SpillReading(*store, first.name(), 64 << 10).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Holds(*store, second));
  ASSERT_TRUE(store->Put(std::vector<SpillWrite>{first.write()}).ok());
  EXPECT_TRUE(Holds(*store, first));
}

TEST_F(RocksSpillStoreTest, RecordUnderAnotherBlocksNameIsDataLoss) {
  PutAndClose({SpillBlock(1), SpillBlock(2)});
  Plant("payload", SpillBlock::NameOf(1), Chars(RecordOf(SpillBlock(2))));
  const auto store = MustOpen();
  const SpillReading swapped(*store, SpillBlock::NameOf(1), 64 << 10);
  EXPECT_EQ(swapped.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(swapped.status().message()), HasSubstr(SpillBlock::NameOf(2).key.ToHex()));
  EXPECT_TRUE(Holds(*store, SpillBlock(2)));
}

TEST_F(RocksSpillStoreTest, TornRecordIsDataLoss) {
  PutAndClose({SpillBlock(1), SpillBlock(2)});
  const std::string whole = Chars(RecordOf(SpillBlock(1)));
  Plant("payload", SpillBlock::NameOf(1), whole.substr(0, whole.size() - 1));
  const auto store = MustOpen();
  EXPECT_EQ(SpillReading(*store, SpillBlock::NameOf(1), 64 << 10).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(Holds(*store, SpillBlock(2)));
}

TEST_F(RocksSpillStoreTest, RecordAndIndexEntryOfAnotherVersionAreLostAlone) {
  PutAndClose({SpillBlock(1), SpillBlock(2)});
  std::string newer = Chars(RecordOf(SpillBlock(1)));
  newer[4] = 2;
  Plant("payload", SpillBlock::NameOf(1), newer);
  Plant("default", SpillBlock::NameOf(1), newer.substr(0, kSpillHeaderBytes));
  const auto store = MustOpen();
  const SpillReading reading(*store, SpillBlock::NameOf(1), 64 << 10);
  EXPECT_EQ(reading.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(reading.status().message()), HasSubstr("format version 2"));
  std::vector<BlockMeta> visited;
  EXPECT_TRUE(store->ForEach([&](const BlockMeta& meta) { visited.push_back(meta); }).ok());
  ASSERT_EQ(visited.size(), 1u);
  EXPECT_EQ(visited[0], SpillBlock(2).meta());
}

TEST_F(RocksSpillStoreTest, SecondOpenerIsRefusedAndTheFirstGoesOn) {
  const auto store = MustOpen();
  const auto second = Open();
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  EXPECT_TRUE(store->Put(std::vector<SpillWrite>{SpillBlock(1).write()}).ok());
}

TEST_F(RocksSpillStoreTest, DirectoryOfAnotherFormatIsRefused) {
  PutAndClose({SpillBlock(1)});
  Overwrite(path() + "/FORMAT", "stemcache spill format 9\n");
  const auto store = Open();
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("spill format 9"));
}

TEST_F(RocksSpillStoreTest, SomebodyElsesDirectoryIsRefusedAndLeftAsItWas) {
  std::filesystem::create_directory(path());
  Overwrite(path() + "/thesis.txt", "chapter one");
  const auto store = Open();
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("thesis.txt"));
  EXPECT_FALSE(std::filesystem::exists(path() + "/FORMAT"));
}

TEST_F(RocksSpillStoreTest, PathThatIsAFileIsRefused) {
  Overwrite(path(), "not a directory");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(RocksSpillStore::Open({.directory = ""}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RocksSpillStoreTest, FreshDirectoryIsPrivate) {
  const auto store = MustOpen();
  struct stat info {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0700u);
}

TEST_F(RocksSpillStoreTest, PutThatWouldEatTheReserveIsRefusedWithTheNumbersAndReadsGoOn) {
  const SpillBlock held(1);
  PutAndClose({held});
  auto store = RocksSpillStore::Open({.directory = path(), .free_bytes_min = 1ULL << 60});
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status refused = (*store)->Put(std::vector<SpillWrite>{SpillBlock(2).write()});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("disk full at ", path(), ": needs ")));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("beside the 1152921504606846976 kept free"));
  EXPECT_TRUE(Holds(**store, held));
  EXPECT_TRUE((*store)->Remove(std::vector<BlockName>{held.name()}).ok());
}

TEST_F(RocksSpillStoreTest, SpaceOfRemovedBlocksComesBackAndTheRestIsStillThere) {
  constexpr uint64_t kBatches = 6;
  constexpr uint64_t kBlocksEach = 16;
  constexpr uint64_t kLength = 1 << 20;
  const auto store = MustOpen();
  std::vector<BlockName> removed;
  std::vector<uint64_t> kept;
  for (uint64_t batch = 0; batch < kBatches; ++batch) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = batch * kBlocksEach; i < (batch + 1) * kBlocksEach; ++i) {
      blocks.emplace_back(i, kLength);
      // Of the oldest files nothing stays, of the next a little, of the newest most.
      if (batch < 2 || (batch < 4 && i % 8 != 0) || i % 4 == 0) {
        removed.push_back(SpillBlock::NameOf(i));
      } else {
        kept.push_back(i);
      }
    }
    ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  }
  const uint64_t full_bytes = store->stats().disk_bytes;
  EXPECT_FALSE(*store->CollectGarbage()) << "there is none yet";
  ASSERT_TRUE(store->Remove(removed).ok());
  const absl::StatusOr<bool> collected = store->CollectGarbage();
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_TRUE(*collected);
  const SpillStats stats = store->stats();
  EXPECT_LT(stats.disk_bytes, full_bytes - removed.size() * kLength / 2);
  EXPECT_LT(static_cast<double>(stats.disk_bytes), static_cast<double>(stats.live_bytes) / 0.7 + (33 << 20));
  EXPECT_EQ(stats.records, kept.size());
  for (const uint64_t i : kept) ASSERT_TRUE(Holds(*store, SpillBlock(i, kLength))) << i;
}

TEST_F(RocksSpillStoreTest, WriterDoesARoundItselfWhenGarbageOutgrowsWhatIsLive) {
  constexpr uint64_t kLength = 1 << 20;
  const auto store = MustOpen();
  for (uint64_t generation = 1; generation <= 12; ++generation) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = 0; i < 16; ++i) blocks.emplace_back(i, kLength, generation);
    ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  }
  EXPECT_LT(store->stats().disk_bytes, 5 * store->stats().live_bytes) << "12 times that was written";
  EXPECT_TRUE(Holds(*store, SpillBlock(3, kLength, 12)));
}

}  // namespace
}  // namespace stem
