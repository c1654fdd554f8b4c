// A number with its bits mixed, so that neighbours come out unlike (the finalizer of SplitMix64: Steele, Lea, Flood, OOPSLA 2014). For
// samples and sketches: the same in every process, which absl::Hash is not.
#pragma once

#include <cstdint>

namespace stem {

constexpr uint64_t Mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace stem
