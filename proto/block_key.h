// What a block is called: 128-bit keys, 128-bit namespace fingerprints, and the pair that names a payload.
// Bytes in memory are the bytes on every wire and disk (proto/FORMAT.md), so packed lists of keys are
// spans of BlockKey.
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/hash/hash.h"
#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace stem {

static_assert(std::endian::native == std::endian::little, "keys travel as their bytes in memory");

namespace key_internal {

// 16 bytes: `low` little-endian, then `high`.
struct Bytes16 {
  uint64_t low = 0;
  uint64_t high = 0;

  absl::string_view bytes() const { return {reinterpret_cast<const char*>(this), sizeof(*this)}; }
  std::string ToHex() const { return absl::BytesToHexString(bytes()); }
};

}  // namespace key_internal

// Names the prefix that ends with a token block. Uniformly distributed: its words serve as hashes.
struct BlockKey : key_internal::Bytes16 {
  friend std::strong_ordering operator<=>(const BlockKey& a, const BlockKey& b) {
    return a.low != b.low ? a.low <=> b.low : a.high <=> b.high;
  }
  friend bool operator==(const BlockKey& a, const BlockKey& b) { return a.low == b.low && a.high == b.high; }
  template <typename H>
  friend H AbslHashValue(H h, const BlockKey& key) {
    return H::combine(std::move(h), key.low, key.high);
  }
};

// Names a namespace and the trust group it belongs to.
struct NamespaceFingerprint : key_internal::Bytes16 {
  friend std::strong_ordering operator<=>(const NamespaceFingerprint& a, const NamespaceFingerprint& b) {
    return a.low != b.low ? a.low <=> b.low : a.high <=> b.high;
  }
  friend bool operator==(const NamespaceFingerprint& a, const NamespaceFingerprint& b) {
    return a.low == b.low && a.high == b.high;
  }
  template <typename H>
  friend H AbslHashValue(H h, const NamespaceFingerprint& fingerprint) {
    return H::combine(std::move(h), fingerprint.low, fingerprint.high);
  }
};

// Names the first tokens of a prompt, whatever the namespace: the same for all of one tenant, and nobody else can make it
// (proto/probe.h).
struct Probe : key_internal::Bytes16 {
  friend bool operator==(const Probe& a, const Probe& b) { return a.low == b.low && a.high == b.high; }
  template <typename H>
  friend H AbslHashValue(H h, const Probe& probe) {
    return H::combine(std::move(h), probe.low, probe.high);
  }
};

static_assert(sizeof(BlockKey) == 16 && sizeof(NamespaceFingerprint) == 16 && sizeof(Probe) == 16);

// Names one payload: everything in pool, spill, index and lease is keyed by this pair. `key` is a part key.
struct BlockName {
  NamespaceFingerprint space;
  BlockKey key;

  friend bool operator==(const BlockName&, const BlockName&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockName& name) {
    return H::combine(std::move(h), name.space, name.key);
  }
};

// The key under which part `part` of the block `key` is kept; part 0 is named by the key itself.
// Source: proto/FORMAT.md, "Part keys".
constexpr BlockKey PartKey(BlockKey key, uint32_t part) {
  key.low ^= part * 0x9E3779B97F4A7C15ULL;
  return key;
}

// 64 bits that stand for a name in an index; a hint, never a proof. Keys are hashes, so mixing their words is enough, and
// a whole chain takes half a nanosecond a key. Source: proto/FORMAT.md, "Index fingerprints".
constexpr uint64_t IndexFingerprint(const BlockName& name) {
  return name.key.low ^ name.space.low ^ std::rotl(name.key.high ^ name.space.high, 29);
}

// `bytes` as 16-byte names, or nothing when its size is not a multiple of 16. Copies: bytes need not be aligned.
template <typename T>
  requires std::same_as<T, BlockKey> || std::same_as<T, NamespaceFingerprint> || std::same_as<T, Probe>
std::optional<std::vector<T>> UnpackNames(absl::string_view bytes) {
  if (bytes.size() % sizeof(T) != 0) return std::nullopt;
  std::vector<T> names(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(names.data(), bytes.data(), bytes.size());
  return names;
}

inline std::string PackKeys(std::span<const BlockKey> keys) {
  return std::string(reinterpret_cast<const char*>(keys.data()), keys.size_bytes());
}

}  // namespace stem
