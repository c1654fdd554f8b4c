// The digest against the shared library's XXH3_64bits, on every instruction set this machine runs.
#include "kernels/checksum.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/checksum_isa.h"
#include "kernels/xxh3_lanes.h"

namespace stem {
namespace {

using checksum_internal::ChecksumIsa;

constexpr size_t kLengths[] = {1,    3,    4,    8,    9,    16,    17,    31,         32,
                               33,   64,   128,  129,  240,  241,   1023,  1024,       1025,
                               4095, 4096, 4097, 8192, 65535, 65536, 65537, (2 << 20) + 1};
constexpr BlockName kName = {{{0x0123456789ABCDEF, 0xFEDCBA9876543210}}, {{0x1122334455667788, 0x99AABBCCDDEEFF00}}};

std::vector<std::byte> RandomBytes(size_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size + 8);
  std::mt19937_64 random(seed);
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(&bytes[i], &word, 8);
  }
  bytes.resize(size);
  return bytes;
}

// The definition, in the plainest words: one buffer, one library call.
std::vector<uint64_t> ReferenceChunks(std::span<const std::byte> payload) {
  std::vector<uint64_t> hashes;
  for (size_t at = 0; at < payload.size(); at += 4096) {
    hashes.push_back(XXH3_64bits(&payload[at], std::min<size_t>(4096, payload.size() - at)));
  }
  return hashes;
}

uint64_t ReferenceDigest(const BlockName& name, std::span<const std::byte> payload) {
  std::vector<uint64_t> words = {name.space.low, name.space.high, name.key.low, name.key.high, payload.size()};
  for (uint64_t hash : ReferenceChunks(payload)) words.push_back(hash);
  return XXH3_64bits(words.data(), words.size() * 8);
}

std::vector<const ChecksumIsa*> Isas() {
  const ChecksumIsa* isas[checksum_internal::kIsasMax];
  return {isas, isas + checksum_internal::AvailableIsas(isas)};
}

TEST(ChecksumTest, DigestIsTheDefinitionAtEveryLength) {
  for (size_t length : kLengths) {
    const auto payload = RandomBytes(length, length);
    std::vector<uint64_t> hashes(ChunkCount(length));
    EXPECT_EQ(Digest(kName, payload, hashes), ReferenceDigest(kName, payload)) << length;
    EXPECT_EQ(hashes, ReferenceChunks(payload)) << length;
    EXPECT_EQ(DigestOfChunks(kName, length, hashes), ReferenceDigest(kName, payload)) << length;
    EXPECT_EQ(ChunkHash(payload), XXH3_64bits(payload.data(), length)) << length;
  }
}

TEST(ChecksumTest, EmptyPayloadHasNoChunksAndADigest) {
  EXPECT_EQ(ChunkCount(0), 0u);
  EXPECT_EQ(Digest(kName, {}, {}), ReferenceDigest(kName, {}));
}

TEST(ChecksumTest, ChunkCountRoundsUpWithoutOverflow) {
  EXPECT_EQ(ChunkCount(1), 1u);
  EXPECT_EQ(ChunkCount(4096), 1u);
  EXPECT_EQ(ChunkCount(4097), 2u);
  EXPECT_EQ(ChunkCount(UINT64_MAX), (UINT64_MAX / 4096) + 1);
}

TEST(ChecksumTest, EveryInstructionSetAgreesWithTheLibraryAtEveryAlignment) {
  const auto bytes = RandomBytes((2 << 20) + 1 + 64, 7);
  for (const ChecksumIsa* isa : Isas()) {
    for (size_t length : kLengths) {
      for (size_t shift : {0, 1, 8, 31, 63}) {
        const std::span<const std::byte> payload(&bytes[shift], length);
        std::vector<uint64_t> hashes(ChunkCount(length) + 1, 42);
        isa->hash_chunks(payload.data(), length, hashes.data());
        EXPECT_EQ(hashes.back(), 42u) << isa->name << " wrote past the last chunk of " << length;
        hashes.pop_back();
        EXPECT_EQ(hashes, ReferenceChunks(payload)) << isa->name << " " << length << "+" << shift;
        EXPECT_EQ(isa->hash(payload.data(), length), XXH3_64bits(payload.data(), length)) << isa->name;
      }
    }
  }
}

TEST(ChecksumTest, EveryInstructionSetCopiesWhatItHashesAndNothingElse) {
  const auto source = RandomBytes((2 << 20) + 1 + 64, 8);
  std::vector<std::byte> target(source.size() + 128);
  for (const ChecksumIsa* isa : Isas()) {
    for (size_t length : kLengths) {
      for (size_t shift : {0, 1, 32, 63}) {
        std::fill(target.begin(), target.end(), std::byte{0xA5});
        const size_t line = (64 - reinterpret_cast<uintptr_t>(target.data()) % 64) % 64;
        std::byte* to = &target[line + (shift == 32 ? 0 : shift)];  // source and target unaligned apart, too
        std::vector<uint64_t> hashes(ChunkCount(length));
        isa->copy_chunks(to, &source[shift], length, hashes.data());
        EXPECT_EQ(std::memcmp(to, &source[shift], length), 0) << isa->name << " " << length << "+" << shift;
        EXPECT_EQ(hashes, ReferenceChunks({&source[shift], length})) << isa->name << " " << length;
        EXPECT_EQ(to[length], std::byte{0xA5}) << isa->name << " wrote past the end of " << length;
        EXPECT_TRUE(to == target.data() || to[-1] == std::byte{0xA5}) << isa->name << " wrote before the start";
        std::memset(to, 0xA5, length);
        isa->copy(to, &source[shift], length);
        EXPECT_EQ(std::memcmp(to, &source[shift], length), 0) << isa->name << " copied " << length;
        EXPECT_EQ(to[length], std::byte{0xA5}) << isa->name << " copied past the end of " << length;
      }
    }
  }
}

TEST(ChecksumTest, OneFlippedBitAnywhereOrAnotherNameChangesTheDigest) {
  auto payload = RandomBytes(3 * 4096 + 100, 9);
  std::vector<uint64_t> hashes(ChunkCount(payload.size()));
  const uint64_t digest = Digest(kName, payload, hashes);
  for (size_t at : {size_t{0}, size_t{4095}, size_t{4096}, payload.size() - 1}) {
    payload[at] ^= std::byte{1};
    EXPECT_NE(Digest(kName, payload, hashes), digest) << at;
    payload[at] ^= std::byte{1};
  }
  BlockName other = kName;
  other.key.high ^= 1;
  EXPECT_NE(Digest(other, payload, hashes), digest);
  other = kName;
  other.space.low ^= 1;
  EXPECT_NE(Digest(other, payload, hashes), digest);
  Digest(kName, payload, hashes);
  std::swap(hashes[0], hashes[1]);
  EXPECT_NE(DigestOfChunks(kName, payload.size(), hashes), digest);
  std::swap(hashes[0], hashes[1]);
  EXPECT_NE(DigestOfChunks(kName, payload.size() - 1, hashes), digest);
}

// A source that changes between being copied and being hashed, without a race: source and target are two mappings of
// the same memory, one line apart, so every line written to the target changes a line of the source already read.
TEST(ChecksumTest, SourceThatChangesMeanwhileStillYieldsTheDigestOfWhatWasWritten) {
  constexpr size_t kLength = 256 * 1024 + 100;
  constexpr size_t kMapped = 272 * 1024;
  constexpr size_t kLine = 64;
  const int memory = memfd_create("checksum_test", MFD_CLOEXEC);
  ASSERT_GE(memory, 0);
  ASSERT_EQ(ftruncate(memory, kMapped), 0);
  void* const one = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  void* const two = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  ASSERT_TRUE(one != MAP_FAILED && two != MAP_FAILED);
  const auto bytes = RandomBytes(kMapped, 11);
  for (const ChecksumIsa* isa : Isas()) {
    for (size_t length : {kLength, size_t{20000}}) {  // streamed and not
      std::memcpy(one, bytes.data(), kMapped);
      const std::span<std::byte> target(static_cast<std::byte*>(one), length);
      std::vector<uint64_t> hashes(ChunkCount(length));
      isa->copy_chunks(target.data(), static_cast<std::byte*>(two) + kLine, length, hashes.data());
      EXPECT_EQ(hashes, ReferenceChunks(target)) << isa->name << " " << length;
    }
  }
  munmap(one, kMapped);
  munmap(two, kMapped);
  close(memory);
}

// The functions that the GPU runs, on the host, at every length that takes another path through XXH3.
TEST(ChecksumTest, LaneFunctionsOfTheGpuAreXxh3) {
  const auto bytes = RandomBytes(8192 + 8, 10);
  for (size_t length = 0; length <= 2100; ++length) {
    const auto* from = reinterpret_cast<const unsigned char*>(bytes.data()) + length % 5;
    ASSERT_EQ(xxh3::Hash(from, length), XXH3_64bits(from, length)) << length;
  }
  for (size_t length : {4095, 4096, 4097, 8192}) {
    const auto* from = reinterpret_cast<const unsigned char*>(bytes.data());
    ASSERT_EQ(xxh3::Hash(from, length), XXH3_64bits(from, length)) << length;
  }
}

TEST(ChecksumDeathTest, WrongNumberOfChunkHashesIsABrokenInvariant) {
  std::vector<std::byte> payload(4097);
  std::vector<uint64_t> one(1);
  EXPECT_DEATH(Digest(kName, payload, one), "broken invariant");
}

}  // namespace
}  // namespace stem
