#include "storage/spill/disk_spill_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
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

class DiskSpillStoreTest : public ::testing::Test {
 protected:
  std::string path() const { return directory_.path() + "/spill"; }

  absl::StatusOr<std::unique_ptr<DiskSpillStore>> Open() const {
    return DiskSpillStore::Open({.directory = path(), .free_bytes_min = 0});
  }

  std::unique_ptr<DiskSpillStore> MustOpen() const {
    auto store = Open();
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }

  void PutAndClose(const std::vector<SpillBlock>& blocks) const {
    const auto store = MustOpen();
    ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  }

  std::string payload() const { return path() + "/payload"; }

  // Writes an entry past the store, as a broken or newer one would.
  void Plant(const BlockName& name, const std::string& value) const {
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, path() + "/index", &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    const SpillKey key = EncodeSpillKey(name);
    EXPECT_TRUE(db->Put({}, {key.data(), key.size()}, value).ok());
  }

  std::string Entry(const BlockName& name) const {
    rocksdb::DB* raw = nullptr;
    EXPECT_TRUE(rocksdb::DB::Open({}, path() + "/index", &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    const SpillKey key = EncodeSpillKey(name);
    std::string value;
    EXPECT_TRUE(db->Get({}, {key.data(), key.size()}, &value).ok());
    return value;
  }

  static bool Holds(DiskSpillStore& store, const SpillBlock& block) {
    return SpillReading(store, block.name(), block.meta().length).Is(block);
  }

 private:
  TempDirectory directory_;
};

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Overwrite(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

TEST_F(DiskSpillStoreTest, AlteredPayloadByteOnDiskLosesThatRecordOnly) {
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 8; ++i) blocks.emplace_back(i);
  PutAndClose(blocks);
  std::string bytes = Contents(payload());
  const std::string middle(reinterpret_cast<const char*>(blocks[3].payload().data()) + 30000, 64);
  const size_t at = bytes.find(middle);
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  Overwrite(payload(), bytes);

  const auto store = MustOpen();
  for (uint64_t i = 0; i < blocks.size(); ++i) {
    const SpillReading reading(*store, blocks[i].name(), blocks[i].meta().length);
    EXPECT_EQ(reading.status().code(), i == 3 ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk);
  }
  EXPECT_EQ(store->stats().corrupt_records, 1u);
}

TEST_F(DiskSpillStoreTest, OneAlteredBlockOfAStemReadInOneSweepLosesItAlone) {
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 8; ++i) blocks.emplace_back(i, 5000 + i);
  PutAndClose(blocks);
  std::string bytes = Contents(payload());
  bytes[bytes.find(std::string(reinterpret_cast<const char*>(blocks[5].payload().data()), 64))] ^= 1;
  Overwrite(payload(), bytes);

  const auto store = MustOpen();
  std::vector<std::vector<std::byte>> payloads(8);
  std::vector<std::vector<uint64_t>> hashes(8, std::vector<uint64_t>(2));
  std::vector<SpillRead> reads(8);
  for (uint64_t i = 0; i < 8; ++i) {
    payloads[i].resize(5000 + i);
    reads[i].name = blocks[i].name();
    reads[i].payload = payloads[i];
    reads[i].chunk_hashes = hashes[i];
  }
  store->Get(reads);
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(reads[i].status.code(), i == 5 ? absl::StatusCode::kDataLoss : absl::StatusCode::kOk) << i;
    if (i == 5) continue;
    EXPECT_EQ(payloads[i], blocks[i].payload());
    EXPECT_EQ(hashes[i], blocks[i].chunk_hashes());
    EXPECT_EQ(reads[i].meta, blocks[i].meta());
  }
}

TEST_F(DiskSpillStoreTest, TruncatedPayloadFileLosesItsLastRecordsOnly) {
  const SpillBlock first(1);
  const SpillBlock second(2);
  PutAndClose({first});
  PutAndClose({second});
  std::filesystem::resize_file(payload(), (64 << 10) + 5000);
  const auto store = MustOpen();
  EXPECT_TRUE(Holds(*store, first));
  EXPECT_EQ(SpillReading(*store, second.name(), 64 << 10).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store->stats().corrupt_records, 1u);
  ASSERT_TRUE(store->Put(std::vector<SpillWrite>{second.write()}).ok());
  EXPECT_TRUE(Holds(*store, second));
}

TEST_F(DiskSpillStoreTest, EntryUnderAnotherBlocksNameIsLostAlone) {
  PutAndClose({SpillBlock(1), SpillBlock(2)});
  Plant(SpillBlock::NameOf(1), Entry(SpillBlock::NameOf(2)));
  for (const uint64_t corrupt : {1, 0}) {  // told once, then gone
    const auto store = MustOpen();
    EXPECT_EQ(SpillReading(*store, SpillBlock::NameOf(1), 64 << 10).status().code(), absl::StatusCode::kNotFound);
    EXPECT_TRUE(Holds(*store, SpillBlock(2)));
    EXPECT_EQ(store->stats().corrupt_records, corrupt);
  }
}

TEST_F(DiskSpillStoreTest, RecordThatClaimsAnothersPagesIsLostAlone) {
  PutAndClose({SpillBlock(1)});
  const std::string entry = Entry(SpillBlock::NameOf(1));
  const absl::StatusOr<SpillRecord> held = ParseSpillRecord(std::as_bytes(std::span(entry)), SpillBlock::NameOf(1));
  ASSERT_TRUE(held.ok()) << held.status();
  SpillRecord thief = *held;
  thief.meta.name = SpillBlock::NameOf(2);
  Plant(thief.meta.name, EncodeSpillRecord(thief));
  const auto store = MustOpen();
  EXPECT_EQ(store->stats().records, 1u);
  EXPECT_EQ(store->stats().corrupt_records, 1u);
  // Whichever of the two was kept proves itself or not: never the other's bytes.
  const SpillReading other(*store, thief.meta.name, 64 << 10);
  EXPECT_FALSE(other.status().ok());
}

TEST_F(DiskSpillStoreTest, EntryOfAnotherVersionIsLostAlone) {
  PutAndClose({SpillBlock(1), SpillBlock(2)});
  std::string newer = Entry(SpillBlock::NameOf(1));
  newer[0] = 3;
  Plant(SpillBlock::NameOf(1), newer);
  const auto store = MustOpen();
  std::vector<BlockMeta> visited;
  EXPECT_TRUE(store->ForEach([&](const BlockMeta& meta) { visited.push_back(meta); }).ok());
  ASSERT_EQ(visited.size(), 1u);
  EXPECT_EQ(visited[0], SpillBlock(2).meta());
}

TEST_F(DiskSpillStoreTest, SecondOpenerIsRefusedAndTheFirstGoesOn) {
  const auto store = MustOpen();
  const auto second = Open();
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  EXPECT_TRUE(store->Put(std::vector<SpillWrite>{SpillBlock(1).write()}).ok());
}

TEST_F(DiskSpillStoreTest, DirectoryOfAnotherFormatIsRefused) {
  PutAndClose({SpillBlock(1)});
  Overwrite(path() + "/FORMAT", "stemcache spill format 9\n");
  const auto store = Open();
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("spill format 9"));
}

TEST_F(DiskSpillStoreTest, SomebodyElsesDirectoryIsRefusedAndLeftAsItWas) {
  std::filesystem::create_directory(path());
  Overwrite(path() + "/thesis.txt", "chapter one");
  const auto store = Open();
  EXPECT_EQ(store.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("thesis.txt"));
  EXPECT_FALSE(std::filesystem::exists(path() + "/FORMAT"));
}

TEST_F(DiskSpillStoreTest, PathThatIsAFileIsRefused) {
  Overwrite(path(), "not a directory");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DiskSpillStore::Open({.directory = ""}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DiskSpillStoreTest, FreshDirectoryIsPrivate) {
  const auto store = MustOpen();
  struct stat info {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0700u);
}

TEST_F(DiskSpillStoreTest, PutThatWouldEatTheReserveIsRefusedWithTheNumbersAndReadsGoOn) {
  const SpillBlock held(1);
  PutAndClose({held});
  auto store = DiskSpillStore::Open({.directory = path(), .free_bytes_min = 1ULL << 60});
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status refused = (*store)->Put(std::vector<SpillWrite>{SpillBlock(2).write()});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("disk full at ", path(), ": needs ")));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("beside the 1152921504606846976 kept free"));
  EXPECT_TRUE(Holds(**store, held));
  EXPECT_TRUE((*store)->Remove(std::vector<SpillRecordId>{held.record()}).ok());
}

TEST_F(DiskSpillStoreTest, SpaceOfRemovedBlocksIsUsedAgainWithoutCopyingWhateverLeaves) {
  constexpr uint64_t kLength = 1 << 20;
  constexpr uint64_t kHeld = 24;
  auto store = DiskSpillStore::Open({.directory = path(), .free_bytes_min = 0, .file_bytes_max = kHeld * kLength});
  ASSERT_TRUE(store.ok()) << store.status();
  std::mt19937_64 random(1);
  std::vector<uint64_t> held;
  for (uint64_t next = 0; next < 10 * kHeld;) {
    std::vector<SpillRecordId> gone;
    for (; held.size() + 4 > kHeld; held.pop_back()) {
      std::swap(held[random() % held.size()], held.back());
      gone.push_back(SpillBlock::RecordOf(held.back()));
    }
    ASSERT_TRUE((*store)->Remove(gone).ok());
    std::vector<SpillBlock> blocks;
    for (int i = 0; i < 4; ++i) {
      held.push_back(next);
      blocks.emplace_back(next++, kLength);
    }
    ASSERT_TRUE((*store)->Put(WritesOf(blocks)).ok());
  }
  const SpillStats stats = (*store)->stats();
  EXPECT_EQ(stats.records, held.size());
  EXPECT_EQ(stats.disk_bytes, kHeld * kLength);
  EXPECT_LT(static_cast<double>(stats.disk_write_bytes), 1.05 * static_cast<double>(stats.write_bytes));
  for (const uint64_t number : held) ASSERT_TRUE(Holds(**store, SpillBlock(number, kLength))) << number;
  store->reset();
  const auto again = MustOpen();
  for (const uint64_t number : held) ASSERT_TRUE(Holds(*again, SpillBlock(number, kLength))) << number;
}

TEST_F(DiskSpillStoreTest, PayloadIsCutIntoPiecesWhereOnlySmallHolesAreLeft) {
  constexpr uint64_t kSmall = 64 << 10;
  auto store = DiskSpillStore::Open({.directory = path(), .free_bytes_min = 0, .file_bytes_max = 32 * kSmall});
  ASSERT_TRUE(store.ok()) << store.status();
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 32; ++i) blocks.emplace_back(i, kSmall);
  ASSERT_TRUE((*store)->Put(WritesOf(blocks)).ok());
  std::vector<SpillRecordId> odd;
  for (uint64_t i = 1; i < 32; i += 2) odd.push_back(SpillBlock::RecordOf(i));
  ASSERT_TRUE((*store)->Remove(odd).ok());
  const SpillBlock large(100, 8 * kSmall - 1000);
  const SpillBlock larger(101, 8 * kSmall);
  ASSERT_TRUE((*store)->Put(std::vector<SpillWrite>{large.write(), larger.write()}).ok());
  const SpillBlock none(102, 4096);
  const absl::Status refused = (*store)->Put(std::vector<SpillWrite>{none.write()});
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("is full: needs 4096 bytes, 0 free, may have 2097152"));
  EXPECT_TRUE(Holds(**store, large));
  store->reset();
  const auto again = MustOpen();
  EXPECT_TRUE(Holds(*again, large));
  EXPECT_TRUE(Holds(*again, larger));
  for (uint64_t i = 0; i < 32; i += 2) EXPECT_TRUE(Holds(*again, blocks[i])) << i;
}

TEST_F(DiskSpillStoreTest, FileOfALargerQuotaIsUsedAndGrowsNoFurther) {
  constexpr uint64_t kSmall = 64 << 10;
  std::vector<SpillBlock> blocks;
  for (uint64_t i = 0; i < 32; ++i) blocks.emplace_back(i, kSmall);
  PutAndClose(blocks);
  auto store = DiskSpillStore::Open({.directory = path(), .free_bytes_min = 0, .file_bytes_max = 16 * kSmall});
  ASSERT_TRUE(store.ok()) << store.status();
  std::vector<SpillRecordId> gone;  // all but the first and the last, which holds the file's end
  for (uint64_t i = 1; i < 31; ++i) gone.push_back(SpillBlock::RecordOf(i));
  ASSERT_TRUE((*store)->Remove(gone).ok());
  const SpillBlock next(100, 8 * kSmall);
  ASSERT_TRUE((*store)->Put(std::vector<SpillWrite>{next.write()}).ok());
  EXPECT_TRUE(Holds(**store, next));
  EXPECT_EQ((*store)->stats().disk_bytes, 32 * kSmall);
  const SpillBlock too_large(101, 24 * kSmall);
  EXPECT_TRUE(absl::IsResourceExhausted((*store)->Put(std::vector<SpillWrite>{too_large.write()})));
  EXPECT_EQ((*store)->stats().disk_bytes, 32 * kSmall);
  // Where no hole is large enough, what there is serves in pieces.
  ASSERT_TRUE((*store)->Remove(std::vector<SpillRecordId>{blocks[0].record(), blocks[31].record()}).ok());
  const SpillBlock in_pieces(102, 24 * kSmall);
  EXPECT_TRUE((*store)->Put(std::vector<SpillWrite>{in_pieces.write()}).ok());
  EXPECT_TRUE(Holds(**store, in_pieces));
  EXPECT_EQ((*store)->stats().disk_bytes, 32 * kSmall);
}

TEST_F(DiskSpillStoreTest, RestartGivesRoomAtTheEndBack) {
  PutAndClose({SpillBlock(1)});
  const auto store = MustOpen();
  EXPECT_EQ(store->stats().disk_bytes, 64u << 10);
  EXPECT_EQ(std::filesystem::file_size(payload()), 64u << 10);
}

TEST_F(DiskSpillStoreTest, DamagedIndexLosesAPartAndWhatItNamedIsNotCountedOnAgain) {
  constexpr uint64_t kBlocks = 4000;
  {
    const auto store = MustOpen();
    std::vector<SpillBlock> blocks;
    for (uint64_t i = 0; i < kBlocks; ++i) blocks.emplace_back(i, 100);
    ASSERT_TRUE(store->Put(WritesOf(blocks)).ok());
  }
  {
    rocksdb::DB* raw = nullptr;
    ASSERT_TRUE(rocksdb::DB::Open({}, path() + "/index", &raw).ok());
    const std::unique_ptr<rocksdb::DB> db(raw);
    ASSERT_TRUE(db->Flush({}).ok());
  }
  std::string table;
  for (const auto& entry : std::filesystem::directory_iterator(path() + "/index")) {
    if (entry.path().extension() == ".sst" && (table.empty() || entry.file_size() > std::filesystem::file_size(table))) {
      table = entry.path();
    }
  }
  ASSERT_FALSE(table.empty());
  std::string bytes = Contents(table);
  bytes[bytes.size() / 2] ^= 1;
  Overwrite(table, bytes);

  uint64_t kept = 0;
  {
    const auto store = MustOpen();
    EXPECT_TRUE(absl::IsDataLoss(store->ForEach([&](const BlockMeta&) { ++kept; })));
    EXPECT_GT(kept, 0u);
    EXPECT_LT(kept, kBlocks);
    ASSERT_TRUE(store->Put(std::vector<SpillWrite>{SpillBlock(kBlocks).write()}).ok());
  }
  const auto store = MustOpen();
  EXPECT_TRUE(store->ForEach([](const BlockMeta&) {}).ok());
  EXPECT_EQ(store->stats().records, kept + 1);
  EXPECT_TRUE(Holds(*store, SpillBlock(kBlocks)));
}

}  // namespace
}  // namespace stem
