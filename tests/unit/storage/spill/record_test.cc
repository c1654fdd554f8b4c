#include "storage/spill/record.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/spill_block.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

// The record with one field changed and the header's checksum made right again: an honest writer of another kind.
template <typename T>
std::vector<std::byte> WithField(std::vector<std::byte> record, size_t offset, T value) {
  std::memcpy(record.data() + offset, &value, sizeof(value));
  const uint64_t check = ChunkHash(std::span(record).first(104));
  std::memcpy(record.data() + 104, &check, sizeof(check));
  return record;
}

std::string ErrorOf(const std::vector<std::byte>& record, const BlockName& name) {
  const auto view = ParseSpillRecord(record, name);
  EXPECT_EQ(view.status().code(), absl::StatusCode::kDataLoss);
  return std::string(view.status().message());
}

TEST(SpillRecord, TakenApartItIsWhatWasPutTogether) {
  for (const uint64_t length : {1ULL, 4095ULL, 4096ULL, 4097ULL, 100000ULL}) {
    for (const uint64_t number : {0ULL, 1ULL}) {  // with and without a parent
      const SpillBlock block(number, length);
      const std::vector<std::byte> record = RecordOf(block);
      ASSERT_EQ(record.size(), SpillRecordBytes(length));
      const auto view = ParseSpillRecord(record, block.name());
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->meta, block.meta());
      EXPECT_EQ(std::memcmp(view->payload.data(), block.payload().data(), length), 0);
      EXPECT_EQ(view->chunk_hash_bytes.size(), block.chunk_hashes().size() * 8);
      const auto meta = ParseSpillHeader(std::span(record).first(kSpillHeaderBytes), block.name());
      ASSERT_TRUE(meta.ok());
      EXPECT_EQ(*meta, block.meta());
    }
  }
}

TEST(SpillRecord, BytesAreThoseOfTheFormat) {
  BlockMeta meta;
  meta.name.space = {{.low = 0x0706050403020100, .high = 0x0F0E0D0C0B0A0908}};
  meta.name.key = {{.low = 0x1716151413121110, .high = 0x1F1E1D1C1B1A1918}};
  meta.parent = BlockKey{{.low = 0x2726252423222120, .high = 0x2F2E2D2C2B2A2928}};
  meta.generation = 3;
  meta.length = 5;
  meta.digest = 0x1122334455667788;
  meta.publisher = 9;
  const uint64_t hash = 0xAABBCCDDEEFF0011;
  const SpillHeader header = EncodeSpillHeader(meta, std::span(&hash, 1));
  EXPECT_EQ(absl::BytesToHexString({reinterpret_cast<const char*>(header.data()), header.size()}),
            "53545350" "01000000" "01000000" "00000000"
            "000102030405060708090a0b0c0d0e0f" "101112131415161718191a1b1c1d1e1f" "202122232425262728292a2b2c2d2e2f"
            "0300000000000000" "0500000000000000" "8877665544332211" "0900000000000000"
            "793ae50e6a2b92ef" "43275fa045eca4d5");
  const SpillKey key = EncodeSpillKey(meta.name);
  EXPECT_EQ(absl::BytesToHexString({key.data(), key.size()}),
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
}

TEST(SpillRecord, EveryAlteredByteBeforeThePayloadIsNoticed) {
  const SpillBlock block(1, 9000);
  const std::vector<std::byte> record = RecordOf(block);
  for (size_t at = 0; at < record.size() - 9000; ++at) {
    std::vector<std::byte> altered = record;
    altered[at] ^= std::byte{0x40};
    EXPECT_FALSE(ParseSpillRecord(altered, block.name()).ok()) << "byte " << at;
  }
}

TEST(SpillRecord, EveryTornLengthIsNoticed) {
  const SpillBlock block(1, 5000);
  const std::vector<std::byte> record = RecordOf(block);
  for (size_t size = 0; size < record.size(); ++size) {
    ASSERT_FALSE(ParseSpillRecord(std::span(record).first(size), block.name()).ok()) << size;
  }
  std::vector<std::byte> longer = record;
  longer.push_back(std::byte{0});
  EXPECT_THAT(ErrorOf(longer, block.name()), HasSubstr("torn"));
}

TEST(SpillRecord, OtherVersionIsNamed) {
  const SpillBlock block(1, 10);
  EXPECT_THAT(ErrorOf(WithField(RecordOf(block), 4, uint32_t{2}), block.name()),
              HasSubstr("format version 2, this build reads 1"));
}

TEST(SpillRecord, RecordOfAnotherBlockIsNamed) {
  EXPECT_THAT(ErrorOf(RecordOf(SpillBlock(1, 10)), SpillBlock::NameOf(2)),
              HasSubstr(SpillBlock::NameOf(1).key.ToHex()));
}

TEST(SpillRecord, UnknownFlagsAndImpossibleLengthsAreRefused) {
  const SpillBlock block(1, 10);
  EXPECT_THAT(ErrorOf(WithField(RecordOf(block), 8, uint32_t{2}), block.name()), HasSubstr("unknown flags 2"));
  EXPECT_THAT(ErrorOf(WithField(RecordOf(block), 72, uint64_t{0}), block.name()), HasSubstr("length 0"));
  EXPECT_THAT(ErrorOf(WithField(RecordOf(block), 72, UINT64_MAX), block.name()), HasSubstr("not in 1.."));
}

TEST(SpillRecord, IndexEntryWithMoreThanAHeaderIsRefused) {
  const SpillBlock block(1, 10);
  EXPECT_FALSE(ParseSpillHeader(RecordOf(block), block.name()).ok());
}

TEST(SpillKeyBytes, NameSurvivesAndOtherSizesAreRefused) {
  const SpillKey key = EncodeSpillKey(SpillBlock::NameOf(4));
  const auto bytes = std::as_bytes(std::span(key));
  ASSERT_TRUE(ParseSpillKey(bytes).ok());
  EXPECT_EQ(*ParseSpillKey(bytes), SpillBlock::NameOf(4));
  EXPECT_EQ(ParseSpillKey(bytes.first(31)).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace stem
