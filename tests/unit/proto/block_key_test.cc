#include "proto/block_key.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "absl/hash/hash_testing.h"

namespace stem {
namespace {

TEST(BlockKeyTest, BytesAreLowThenHighLittleEndian) {
  const BlockKey key{{.low = 0x0706050403020100, .high = 0x0F0E0D0C0B0A0908}};
  EXPECT_EQ(key.ToHex(), "000102030405060708090a0b0c0d0e0f");
  EXPECT_EQ(key.bytes().size(), 16u);
}

TEST(BlockKeyTest, PackedKeysComeBackAndRaggedBytesDoNot) {
  std::vector<BlockKey> keys(3);
  keys[1].low = 7;
  keys[2].high = 9;
  const std::string packed = PackKeys(keys);
  EXPECT_EQ(packed.size(), 48u);
  EXPECT_EQ(UnpackNames<BlockKey>(packed), keys);
  EXPECT_EQ(UnpackNames<BlockKey>(packed.substr(1)), std::nullopt);
  EXPECT_EQ(UnpackNames<BlockKey>(packed.substr(0, 47)), std::nullopt);
  EXPECT_EQ(UnpackNames<BlockKey>("")->size(), 0u);
  // From an odd address.
  const std::string shifted = "x" + packed;
  EXPECT_EQ(UnpackNames<BlockKey>(absl::string_view(shifted).substr(1)), keys);
}

TEST(BlockKeyTest, PartZeroIsTheKeyAndAllPartsDiffer) {
  const BlockKey key{{.low = 1, .high = 2}};
  EXPECT_EQ(PartKey(key, 0), key);
  std::set<uint64_t> lows;
  for (uint32_t part = 0; part < 64; ++part) {
    EXPECT_EQ(PartKey(key, part).high, key.high);
    lows.insert(PartKey(key, part).low);
  }
  EXPECT_EQ(lows.size(), 64u);
}

TEST(BlockKeyTest, IndexFingerprintDependsOnEveryWord) {
  const BlockName name{.space = {{.low = 1, .high = 2}}, .key = {{.low = 3, .high = 4}}};
  std::set<uint64_t> seen = {IndexFingerprint(name)};
  for (int word = 0; word < 4; ++word) {
    BlockName other = name;
    (word == 0   ? other.space.low
     : word == 1 ? other.space.high
     : word == 2 ? other.key.low
                 : other.key.high) ^= 1ULL << 40;
    seen.insert(IndexFingerprint(other));
  }
  // A flip of the same bit in namespace and key names the same place: a hint, the slot's header is the proof.
  EXPECT_EQ(seen.size(), 3u);
}

TEST(BlockKeyTest, NamesOrderHashAndCompareByValue) {
  const BlockKey a{{.low = 1, .high = 0}}, b{{.low = 2, .high = 0}};
  EXPECT_TRUE(a < b);
  EXPECT_TRUE(a != b);
  EXPECT_TRUE(absl::VerifyTypeImplementsAbslHashCorrectly(
      {BlockName{}, BlockName{.space = {}, .key = a}, BlockName{.space = {{.low = 1, .high = 0}}, .key = {}}}));
}

}  // namespace
}  // namespace stem
