// XXH3-64 by a whole warp, for the kernels that digest.
#pragma once

#include "kernels/xxh3_lanes.h"

namespace stem {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;
inline constexpr unsigned kWarpsPerBlock = 8;
inline constexpr uint64_t kChunk = 4096;

// Every thread of the warp gets the hash. Four groups of eight lanes share the stripes.
__device__ inline uint64_t WarpHash(const unsigned char* from, size_t bytes) {
  if (bytes <= xxh3::kShortBytesMax) return xxh3::HashShort(from, bytes);
  const unsigned thread = threadIdx.x % kWarp;
  const unsigned lane = thread % xxh3::kLanes;
  const uint64_t value = xxh3::LaneOf(from, bytes, lane, thread / xxh3::kLanes, kWarp / xxh3::kLanes, [](uint64_t sum) {
    sum += __shfl_xor_sync(kAllLanes, sum, 8);
    return sum + __shfl_xor_sync(kAllLanes, sum, 16);
  });
  uint64_t lanes[xxh3::kLanes];
  for (unsigned i = 0; i < xxh3::kLanes; ++i) lanes[i] = __shfl_sync(kAllLanes, value, static_cast<int>(i));
  return xxh3::MergeLanes(lanes, bytes);
}

}  // namespace stem
