// When removed records are worth taking back, and from which blob files. Pure functions over sizes in bytes.
// The arithmetic is in README.md, "Garbage".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace stem {

inline constexpr uint64_t kGarbageSlackBytes = 32ULL << 20;  // not worth a round, however little is live
inline constexpr double kGarbageShareMax = 0.3;              // of the blob files' bytes
inline constexpr double kGarbageShareHard = 0.5;             // above it, writers wait for rounds
inline constexpr uint64_t kMovedBytesMax = 512ULL << 20;     // live bytes that one round copies, if it is not one file

struct BlobFileBytes {
  uint64_t total_bytes = 0;
  uint64_t garbage_bytes = 0;  // of these
};

// Whether `garbage_bytes` are above `share` of `blob_bytes`, and more than a little.
bool WorthCollecting(uint64_t garbage_bytes, uint64_t blob_bytes, double share);

// How many of `files`, oldest first, to rewrite in one round; 0 = none. Moves at most `room_bytes`, and at most
// kMovedBytesMax unless it is a single file. Of the prefixes within that, the one that frees most for what it moves:
// after LRU eviction the oldest files are nearly empty, so a round moves little. Where the oldest files are full of
// long-lived blocks, as many of them as fit: they become the newest, and the garbage behind them comes within reach.
size_t OldestToCollect(std::span<const BlobFileBytes> files, uint64_t room_bytes);

}  // namespace stem
