// When removed records are worth taking back, and from which blob files. Pure functions over sizes in bytes.
// The arithmetic is in README.md, "Garbage".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace stem {

inline constexpr uint64_t kGarbageSlackBytes = 32ULL << 20;  // not worth a round, however little is live
inline constexpr double kGarbageShareMax = 0.3;              // of the blob files' bytes
inline constexpr uint64_t kMovedBytesMax = 1ULL << 30;       // live bytes that one round copies: about 3 s

struct BlobFileBytes {
  uint64_t total_bytes = 0;
  uint64_t garbage_bytes = 0;  // of these
};

bool WorthCollecting(uint64_t garbage_bytes, uint64_t blob_bytes);

// How many of `files`, oldest first, to rewrite; 0 = none. Moves at most `moved_bytes_max` live bytes, and frees most
// for what it moves: after LRU eviction the oldest files are nearly empty, so a round moves little.
size_t OldestToCollect(std::span<const BlobFileBytes> files, uint64_t moved_bytes_max);

}  // namespace stem
