// A block written or read from its first byte to its last, in chunks of 4 KiB that are put together in the first-level
// cache and, where asked, hashed there: the hash is of the bytes that were written. Host only; internal.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/checksum_isa.h"

namespace stem {

inline constexpr size_t kStreamChunkBytes = 4096;
inline constexpr size_t kCacheLineBytes = 64;
inline constexpr uint64_t kStreamBytesMin = 64 * 1024;  // kernels/checksum_body.h says why

inline void MoveRuns(const checksum_internal::ChecksumIsa& isa, bool stream, const checksum_internal::CopyRun* runs,
                     size_t count, size_t known) {
  if (stream) return isa.stream_runs(runs, count, known);
  for (size_t i = 0; i < count; ++i) std::memcpy(runs[i].to, runs[i].from, runs[i].bytes);
}

// Hashes what is in `keep`, not what the compiler remembers of its source, which may differ by now.
inline uint64_t HashOf(const checksum_internal::ChecksumIsa& isa, const std::byte* keep, size_t bytes) {
  asm volatile("" : : "r"(keep) : "memory");
  return isa.hash(keep, bytes);
}

class ChunkSink {
 public:
  // `hashes` null: none are taken. `stream`: past the cache; the caller fences.
  ChunkSink(const checksum_internal::ChecksumIsa& isa, bool stream, std::byte* block, uint64_t* hashes)
      : isa_(isa), stream_(stream), to_(block), hashes_(hashes) {}
  ChunkSink(const ChunkSink&) = delete;
  ~ChunkSink() {
    if (kept_ > 0) Flush();
  }

  void Append(const std::byte* from, size_t bytes) {
    if (kept_ == 0 && stream_ && hashes_ != nullptr && bytes >= kStreamChunkBytes) {
      const size_t whole = bytes - bytes % kStreamChunkBytes;
      isa_.stream_chunks(to_, from, whole, hashes_);
      to_ += whole;
      from += whole;
      bytes -= whole;
      hashes_ += whole / kStreamChunkBytes;
    }
    while (bytes > 0) {
      const size_t part = std::min(bytes, kStreamChunkBytes - kept_);
      std::memcpy(keep_ + kept_, from, part);
      from += part;
      bytes -= part;
      Advance(part);
    }
  }

  // Where the next `bytes` go, to be written there and then told by Advance(); null when they do not fit into a chunk.
  std::byte* Room(size_t bytes) { return kept_ + bytes <= kStreamChunkBytes ? keep_ + kept_ : nullptr; }
  void Advance(size_t bytes) {
    kept_ += bytes;
    if (kept_ == kStreamChunkBytes) Flush();
  }

 private:
  void Flush() {
    const checksum_internal::CopyRun run = {to_, keep_, kept_};
    MoveRuns(isa_, stream_, &run, 1, 1);
    if (hashes_ != nullptr) *hashes_++ = HashOf(isa_, keep_, kept_);
    to_ += kept_;
    kept_ = 0;
  }

  const checksum_internal::ChecksumIsa& isa_;
  const bool stream_;
  std::byte* to_;  // where `keep_` goes
  uint64_t* hashes_;
  size_t kept_ = 0;
  alignas(kCacheLineBytes) std::byte keep_[kStreamChunkBytes];
};

class ChunkSource {
 public:
  // `hashes` null: none are taken, and bytes are read where they are.
  ChunkSource(const checksum_internal::ChecksumIsa& isa, const std::byte* block, uint64_t bytes, uint64_t* hashes)
      : isa_(isa), block_(block), bytes_(bytes), hashes_(hashes) {}
  ChunkSource(const ChunkSource&) = delete;
  // Hashes what nobody asked for.
  ~ChunkSource() {
    while (hashes_ != nullptr && loaded_ < bytes_) Load(loaded_);
  }

  // `bytes` (at most 4096) of the block from `at` on, which never falls. Valid until the next call.
  const std::byte* Take(uint64_t at, size_t bytes) {
    if (hashes_ == nullptr) return block_ + at;
    while (loaded_ < at + bytes) Load(at);
    return keep_ + (at - base_);
  }

  // Whether Take() would not have to load, so that what it returned before stays.
  bool Holds(uint64_t at, size_t bytes) const { return hashes_ == nullptr || loaded_ >= at + bytes; }

  // Copies whole chunks from `at` on to `to` as far as they begin just here; returns their bytes, maybe 0.
  uint64_t MoveChunks(uint64_t at, uint64_t bytes, std::byte* to) {
    if (hashes_ == nullptr || bytes < kStreamChunkBytes || at != loaded_) return 0;
    const uint64_t whole = bytes - bytes % kStreamChunkBytes;
    isa_.stream_chunks(to, block_ + at, whole, hashes_);
    hashes_ += whole / kStreamChunkBytes;
    loaded_ += whole;
    return whole;
  }

 private:
  // One more chunk; what lies before `needed` may go.
  void Load(uint64_t needed) {
    if (needed >= loaded_) {
      base_ = loaded_;
    } else if (loaded_ - base_ > kStreamChunkBytes) {
      std::memmove(keep_, keep_ + (needed - base_), loaded_ - needed);
      base_ = needed;
    }
    const size_t bytes = std::min<uint64_t>(kStreamChunkBytes, bytes_ - loaded_);
    const std::byte* const from = block_ + loaded_;
    std::byte* const to = keep_ + (loaded_ - base_);
    size_t at = 0;
    for (; at + kCacheLineBytes <= bytes; at += kCacheLineBytes) {
      __builtin_prefetch(from + kStreamChunkBytes + at, 0, 2);  // the next chunk comes while this one is copied and hashed
      std::memcpy(to + at, from + at, kCacheLineBytes);
    }
    std::memcpy(to + at, from + at, bytes - at);
    *hashes_++ = HashOf(isa_, to, bytes);
    loaded_ += bytes;
  }

  const checksum_internal::ChecksumIsa& isa_;
  const std::byte* const block_;
  const uint64_t bytes_;
  uint64_t* hashes_;
  uint64_t base_ = 0;    // of the block: what keep_ begins with
  uint64_t loaded_ = 0;  // bytes of the block that went through keep_; multiples of a chunk until the end
  alignas(kCacheLineBytes) std::byte keep_[2 * kStreamChunkBytes];
};

}  // namespace stem
