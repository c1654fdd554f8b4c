// XXH3-64 (seed 0) for host and device, cut into the pieces that a warp shares out: eight accumulator lanes, and within
// a 1 KiB block the sums of the stripes, which may be added in any order. Source: xxHash's doc/xxhash_spec.md, XXH3.
// Internal to kernels/ and its tests, which hold Hash() against the library at every path on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define STEM_HOST_DEVICE __host__ __device__
#else
#define STEM_HOST_DEVICE
#endif

namespace stem::xxh3 {

inline constexpr unsigned kLanes = 8;
inline constexpr size_t kStripeBytes = 64;
inline constexpr size_t kSecretBytes = 192;
inline constexpr size_t kStripesPerBlock = (kSecretBytes - kStripeBytes) / 8;
inline constexpr size_t kBlockBytes = kStripesPerBlock * kStripeBytes;
inline constexpr size_t kShortBytesMax = 240;  // longer inputs are the lanes' work

inline constexpr uint64_t kPrime32A = 0x9E3779B1U;
inline constexpr uint64_t kPrime32B = 0x85EBCA77U;
inline constexpr uint64_t kPrime32C = 0xC2B2AE3DU;
inline constexpr uint64_t kPrimeA = 0x9E3779B185EBCA87ULL;
inline constexpr uint64_t kPrimeB = 0xC2B2AE3D27D4EB4FULL;
inline constexpr uint64_t kPrimeC = 0x165667B19E3779F9ULL;
inline constexpr uint64_t kPrimeD = 0x85EBCA77C2B2AE63ULL;
inline constexpr uint64_t kPrimeE = 0x27D4EB2F165667C5ULL;

// The published secret as little-endian words; a macro, as host and device need an array each.
#define STEM_XXH3_SECRET                                                                                      \
  0xBE4BA423396CFEB8ULL, 0x1CAD21F72C81017CULL, 0xDB979083E96DD4DEULL, 0x1F67B3B7A4A44072ULL,                 \
  0x78E5C0CC4EE679CBULL, 0x2172FFCC7DD05A82ULL, 0x8E2443F7744608B8ULL, 0x4C263A81E69035E0ULL,                 \
  0xCB00C391BB52283CULL, 0xA32E531B8B65D088ULL, 0x4EF90DA297486471ULL, 0xD8ACDEA946EF1938ULL,                 \
  0x3F349CE33F76FAA8ULL, 0x1D4F0BC7C7BBDCF9ULL, 0x3159B4CD4BE0518AULL, 0x647378D9C97E9FC8ULL,                 \
  0xC3EBD33483ACC5EAULL, 0xEB6313FAFFA081C5ULL, 0x49DAF0B751DD0D17ULL, 0x9E68D429265516D3ULL,                 \
  0xFCA1477D58BE162BULL, 0xCE31D07AD1B8F88FULL, 0x280416958F3ACB45ULL, 0x7E404BBBCAFBD7AFULL
#ifdef __CUDACC__
static __constant__ const uint64_t kDeviceSecret[kSecretBytes / 8] = {STEM_XXH3_SECRET};
#endif
inline constexpr uint64_t kHostSecret[kSecretBytes / 8] = {STEM_XXH3_SECRET};
#undef STEM_XXH3_SECRET

STEM_HOST_DEVICE inline uint64_t Read64(const unsigned char* from) {
#ifdef __CUDA_ARCH__
  if (reinterpret_cast<uintptr_t>(from) % 8 == 0) return *reinterpret_cast<const uint64_t*>(from);
#endif
  uint64_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

STEM_HOST_DEVICE inline uint64_t Read32(const unsigned char* from) {
  uint32_t word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Eight bytes of the secret from any offset.
STEM_HOST_DEVICE inline uint64_t Secret(size_t at) {
#ifdef __CUDA_ARCH__
  const uint64_t* words = kDeviceSecret;
#else
  const uint64_t* words = kHostSecret;
#endif
  const unsigned shift = static_cast<unsigned>(at % 8) * 8;
  const uint64_t low = words[at / 8] >> shift;
  return shift == 0 ? low : low | words[at / 8 + 1] << (64 - shift);
}

STEM_HOST_DEVICE inline uint64_t FoldedProduct(uint64_t a, uint64_t b) {
  __extension__ typedef unsigned __int128 Wide;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

STEM_HOST_DEVICE inline uint64_t RotateLeft(uint64_t word, unsigned bits) {
  return word << bits | word >> (64 - bits);
}

STEM_HOST_DEVICE inline uint64_t SwapBytes(uint64_t word) {
  word = (word & 0x00FF00FF00FF00FFULL) << 8 | (word >> 8 & 0x00FF00FF00FF00FFULL);
  word = (word & 0x0000FFFF0000FFFFULL) << 16 | (word >> 16 & 0x0000FFFF0000FFFFULL);
  return word << 32 | word >> 32;
}

STEM_HOST_DEVICE inline uint64_t Avalanche(uint64_t hash) {
  hash = (hash ^ hash >> 37) * 0x165667919E3779F9ULL;  // not kPrimeC
  return hash ^ hash >> 32;
}

STEM_HOST_DEVICE inline uint64_t AvalancheShort(uint64_t hash) {
  hash = (hash ^ hash >> 33) * kPrimeB;
  hash = (hash ^ hash >> 29) * kPrimeC;
  return hash ^ hash >> 32;
}

STEM_HOST_DEVICE inline uint64_t Mix16(const unsigned char* from, size_t secret_at) {
  return FoldedProduct(Read64(from) ^ Secret(secret_at), Read64(from + 8) ^ Secret(secret_at + 8));
}

STEM_HOST_DEVICE inline uint64_t HashUpTo16(const unsigned char* from, size_t bytes) {
  if (bytes > 8) {
    const uint64_t low = Read64(from) ^ Secret(24) ^ Secret(32);
    const uint64_t high = Read64(from + bytes - 8) ^ Secret(40) ^ Secret(48);
    return Avalanche(bytes + SwapBytes(low) + high + FoldedProduct(low, high));
  }
  if (bytes >= 4) {
    uint64_t hash = (Read32(from + bytes - 4) + (Read32(from) << 32)) ^ Secret(8) ^ Secret(16);
    hash ^= RotateLeft(hash, 49) ^ RotateLeft(hash, 24);
    hash *= 0x9FB21C651E98DF25ULL;
    hash ^= (hash >> 35) + bytes;
    hash *= 0x9FB21C651E98DF25ULL;
    return hash ^ hash >> 28;
  }
  if (bytes == 0) return AvalancheShort(Secret(56) ^ Secret(64));
  const uint64_t mixed = uint64_t{from[0]} << 16 | uint64_t{from[bytes >> 1]} << 24 | from[bytes - 1] | bytes << 8;
  return AvalancheShort(mixed ^ ((Secret(0) ^ Secret(4)) & 0xFFFFFFFF));
}

// Inputs of at most kShortBytesMax bytes.
STEM_HOST_DEVICE inline uint64_t HashShort(const unsigned char* from, size_t bytes) {
  if (bytes <= 16) return HashUpTo16(from, bytes);
  uint64_t sum = bytes * kPrimeA;
  if (bytes <= 128) {
    const size_t pairs = (bytes - 1) / 32 + 1;
    for (size_t i = 0; i < pairs; ++i) {
      sum += Mix16(from + 16 * i, 32 * i) + Mix16(from + bytes - 16 * (i + 1), 32 * i + 16);
    }
    return Avalanche(sum);
  }
  for (size_t i = 0; i < 8; ++i) sum += Mix16(from + 16 * i, 16 * i);
  sum = Avalanche(sum);
  for (size_t i = 8; i < bytes / 16; ++i) sum += Mix16(from + 16 * i, 16 * (i - 8) + 3);
  return Avalanche(sum + Mix16(from + bytes - 16, 136 - 17));
}

STEM_HOST_DEVICE inline uint64_t InitialLane(unsigned lane) {
  constexpr uint64_t kInitial[kLanes] = {kPrime32C, kPrimeA, kPrimeB, kPrimeC, kPrimeD, kPrime32B, kPrimeE, kPrime32A};
  return kInitial[lane];
}

// What one stripe adds to a lane.
STEM_HOST_DEVICE inline uint64_t StripeTerm(const unsigned char* stripe, unsigned lane, size_t secret_at) {
  const uint64_t keyed = Read64(stripe + 8 * lane) ^ Secret(secret_at + 8 * lane);
  return Read64(stripe + 8 * (lane ^ 1)) + (keyed & 0xFFFFFFFF) * (keyed >> 32);
}

// A lane after a whole input of more than kShortBytesMax bytes. `groups` callers share the stripes of a lane;
// `sum_groups` adds their values of one lane up and gives each the sum.
template <typename SumGroups>
STEM_HOST_DEVICE inline uint64_t LaneOf(const unsigned char* from, size_t bytes, unsigned lane, unsigned group,
                                        unsigned groups, SumGroups sum_groups) {
  uint64_t value = InitialLane(lane);
  const size_t blocks = (bytes - 1) / kBlockBytes;
  for (size_t block = 0; block < blocks; ++block, from += kBlockBytes) {
    uint64_t sum = 0;
    for (size_t i = group; i < kStripesPerBlock; i += groups) sum += StripeTerm(from + i * kStripeBytes, lane, 8 * i);
    value += sum_groups(sum);
    value = (value ^ value >> 47 ^ Secret(kSecretBytes - kStripeBytes + 8 * lane)) * kPrime32A;
  }
  const size_t rest = bytes - blocks * kBlockBytes;  // 1..kBlockBytes
  uint64_t sum = 0;
  for (size_t i = group; i < (rest - 1) / kStripeBytes; i += groups) {
    sum += StripeTerm(from + i * kStripeBytes, lane, 8 * i);
  }
  // The last stripe ends with the input and may overlap the one before it.
  if (group == 0) sum += StripeTerm(from + rest - kStripeBytes, lane, kSecretBytes - kStripeBytes - 7);
  return value + sum_groups(sum);
}

STEM_HOST_DEVICE inline uint64_t MergeLanes(const uint64_t (&lanes)[kLanes], size_t bytes) {
  uint64_t sum = bytes * kPrimeA;
  for (unsigned i = 0; i < kLanes; i += 2) {
    sum += FoldedProduct(lanes[i] ^ Secret(11 + 8 * i), lanes[i + 1] ^ Secret(19 + 8 * i));
  }
  return Avalanche(sum);
}

// XXH3-64 by one thread.
STEM_HOST_DEVICE inline uint64_t Hash(const unsigned char* from, size_t bytes) {
  if (bytes <= kShortBytesMax) return HashShort(from, bytes);
  uint64_t lanes[kLanes];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    lanes[lane] = LaneOf(from, bytes, lane, 0, 1, [](uint64_t sum) { return sum; });
  }
  return MergeLanes(lanes, bytes);
}

}  // namespace stem::xxh3
