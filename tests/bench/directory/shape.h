// What the directory's benches put into an index: chains whose keys come from a formula, so that the generator holds
// none of them, and which nodes hold how much of each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/block_key.h"
#include "services/directory/prefix_index.h"

namespace stem::bench {

// A bijection that spreads its argument over all 64 bits.
constexpr uint64_t Mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
  return x ^ x >> 31;
}

inline constexpr uint32_t kChainBlocksMax = 1u << 16;  // a request's limit

// Uniform 128 bits, as real keys are.
constexpr BlockKey KeyAt(uint64_t chain, uint32_t position) {
  BlockKey key;
  key.low = Mix(chain * kChainBlocksMax + position + 1);
  key.high = Mix(key.low ^ 0x9E3779B97F4A7C15ULL);
  return key;
}

inline constexpr NamespaceFingerprint BenchSpace() {
  NamespaceFingerprint space;
  space.low = 0xA5A5A5A55A5A5A5AULL;
  space.high = 0x0123456789ABCDEFULL;
  return space;
}

inline uint64_t FingerprintAt(uint64_t chain, uint32_t position, uint32_t part = 0) {
  return IndexedAs({.space = BenchSpace(), .key = PartKey(KeyAt(chain, position), part)});
}

inline std::vector<BlockKey> KeysAt(uint64_t chain, uint32_t first, uint32_t count) {
  std::vector<BlockKey> keys;
  keys.reserve(count);
  for (uint32_t i = first; i < first + count; ++i) keys.push_back(KeyAt(chain, i));
  return keys;
}

struct Shape {
  uint64_t blocks = 1'000'000;   // distinct, of part 0
  uint32_t chain_blocks = 1000;  // per chain; the last chain has the rest
  uint32_t shared_by = 1;        // nodes that hold each chain
  bool prefixes = false;         // all but one of them hold a random prefix of it
  bool holes = false;            // part 1 is held too, without one block in fifty
  uint32_t piece_blocks = 0;     // a chain comes in pieces of so many blocks, those of 32 chains in turn; 0 = at once

  static constexpr uint32_t kUnsharedNodes = 8;  // who hold the chains in turn when shared_by is 1

  uint32_t nodes() const { return shared_by == 1 ? kUnsharedNodes : shared_by; }
  uint64_t chains() const { return (blocks + chain_blocks - 1) / chain_blocks; }
  uint32_t blocks_of(uint64_t chain) const {
    return static_cast<uint32_t>(std::min<uint64_t>(chain_blocks, blocks - chain * chain_blocks));
  }
  // How many leading blocks of `chain` the node holds.
  uint32_t held(uint64_t chain, uint32_t node) const {
    const bool owner = chain % nodes() == node;
    if (shared_by == 1) return owner ? blocks_of(chain) : 0;
    if (owner || !prefixes) return blocks_of(chain);
    return 1 + static_cast<uint32_t>(Mix(chain * nodes() + node) % blocks_of(chain));
  }
  static bool hole(uint64_t chain, uint32_t position) { return Mix(~(chain * kChainBlocksMax + position)) % 50 == 0; }
};

}  // namespace stem::bench
