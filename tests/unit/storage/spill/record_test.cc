#include "storage/spill/record.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"
#include "tests/support/spill_block.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

SpillRecord RecordOf(uint64_t number, uint64_t length = 9000) {
  return {.meta = SpillBlock(number, length).meta(), .extents = {{7, static_cast<uint32_t>(SpillPages(length))}}};
}

std::span<const std::byte> BytesOf(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

// The record with one field changed and its checksum made right again: an honest writer of another kind.
template <typename T>
std::string WithField(const SpillRecord& record, size_t offset, T value) {
  std::string bytes = EncodeSpillRecord(record);
  std::memcpy(bytes.data() + offset, &value, sizeof(value));
  const SpillKey key = EncodeSpillKey(record.meta.name);
  const std::array<uint64_t, 2> parts = {ChunkHash(std::as_bytes(std::span(key))),
                                         ChunkHash(BytesOf(bytes).first(bytes.size() - 8))};
  const uint64_t check = ChunkHash(std::as_bytes(std::span(parts)));
  std::memcpy(bytes.data() + bytes.size() - 8, &check, sizeof(check));
  return bytes;
}

std::string ErrorOf(const std::string& bytes, const BlockName& name) {
  const auto record = ParseSpillRecord(BytesOf(bytes), name);
  EXPECT_EQ(record.status().code(), absl::StatusCode::kDataLoss);
  return std::string(record.status().message());
}

TEST(SpillRecord, ParsedItIsWhatWasEncoded) {
  for (const uint64_t number : {0ULL, 1ULL}) {  // with and without a parent
    for (const uint64_t length : {1ULL, 4096ULL, 4097ULL, 100000ULL}) {
      const SpillRecord record = RecordOf(number, length);
      const auto parsed = ParseSpillRecord(BytesOf(EncodeSpillRecord(record)), record.meta.name);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_EQ(*parsed, record);
    }
  }
  SpillRecord encoded = RecordOf(1);
  encoded.meta.encoding = 0x0802;
  EXPECT_EQ(*ParseSpillRecord(BytesOf(EncodeSpillRecord(encoded)), encoded.meta.name), encoded);
  EXPECT_EQ(EncodeSpillRecord(encoded).substr(4, 4), std::string("\x01\0\x02\x08", 4)) << "as the format has it";
  SpillRecord pieces = RecordOf(1, 10 * 4096);
  pieces.extents = {{100, 5}, {7, 1}, {4000000000, 4}};
  const auto parsed = ParseSpillRecord(BytesOf(EncodeSpillRecord(pieces)), pieces.meta.name);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, pieces);
}

TEST(SpillRecord, BytesAreThoseOfTheFormat) {
  SpillRecord record;
  record.meta.name.space = {{.low = 0x0706050403020100, .high = 0x0F0E0D0C0B0A0908}};
  record.meta.name.key = {{.low = 0x1716151413121110, .high = 0x1F1E1D1C1B1A1918}};
  record.meta.parent = BlockKey{{.low = 0x2726252423222120, .high = 0x2F2E2D2C2B2A2928}};
  record.meta.generation = 3;
  record.meta.length = 5000;
  record.meta.digest = 0x1122334455667788;
  record.meta.publisher = 9;
  record.extents = {{0x31, 2}};
  EXPECT_EQ(absl::BytesToHexString(EncodeSpillRecord(record)),
            "0200" "0100" "01000000" "202122232425262728292a2b2c2d2e2f"
            "0300000000000000" "8813000000000000" "8877665544332211" "0900000000000000"
            "31000000" "02000000" "cdca69f6f0783ce2");
  const SpillKey key = EncodeSpillKey(record.meta.name);
  EXPECT_EQ(absl::BytesToHexString({key.data(), key.size()}),
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
}

TEST(SpillRecord, EveryAlteredByteIsNoticed) {
  const SpillRecord record = RecordOf(1);
  const std::string bytes = EncodeSpillRecord(record);
  for (size_t at = 0; at < bytes.size(); ++at) {
    std::string altered = bytes;
    altered[at] ^= 0x40;
    EXPECT_FALSE(ParseSpillRecord(BytesOf(altered), record.meta.name).ok()) << "byte " << at;
  }
}

TEST(SpillRecord, EveryOtherLengthIsNoticed) {
  const SpillRecord record = RecordOf(1);
  const std::string bytes = EncodeSpillRecord(record);
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_FALSE(ParseSpillRecord(BytesOf(bytes).first(size), record.meta.name).ok()) << size;
  }
  EXPECT_FALSE(ParseSpillRecord(BytesOf(bytes + "12345678"), record.meta.name).ok());
}

TEST(SpillRecord, RecordUnderAnotherBlocksNameIsNoticed) {
  EXPECT_THAT(ErrorOf(EncodeSpillRecord(RecordOf(1)), SpillBlock::NameOf(2)), HasSubstr("checksum"));
}

TEST(SpillRecord, FieldsThatCannotBeAreNamed) {
  const SpillRecord record = RecordOf(1);
  const BlockName& name = record.meta.name;
  EXPECT_THAT(ErrorOf(WithField(record, 0, uint16_t{3}), name), HasSubstr("format version 3, this build reads 2"));
  EXPECT_THAT(ErrorOf(WithField(record, 2, uint16_t{2}), name), HasSubstr("unknown flags 2"));
  EXPECT_THAT(ErrorOf(WithField(record, 4, uint16_t{2}), name), HasSubstr("2 extents in 72 bytes"));
  EXPECT_THAT(ErrorOf(WithField(record, 4, UINT16_MAX), name), HasSubstr("65535 extents in 72 bytes"));
  EXPECT_THAT(ErrorOf(WithField(record, 32, uint64_t{0}), name), HasSubstr("length 0"));
  EXPECT_THAT(ErrorOf(WithField(record, 32, UINT64_MAX), name), HasSubstr("not in 1.."));
  EXPECT_THAT(ErrorOf(WithField(record, 32, uint64_t{9000000}), name), HasSubstr("3 pages, 9000000 bytes need 2198"));
  EXPECT_THAT(ErrorOf(WithField(record, 60, uint32_t{0}), name), HasSubstr("extent of 0 pages"));
  EXPECT_THAT(ErrorOf(WithField(record, 56, UINT32_MAX), name), HasSubstr("extent of 3 pages at 4294967295"));
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
