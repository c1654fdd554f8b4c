// The digest's inner loops, compiled once per instruction set. Internal to kernels/ and its tests.
// Plain C types only: an inline function that is shared with other files and compiled for AVX here could be the copy
// that the linker keeps for everyone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stem::checksum_internal {

// A piece of a copy.
struct CopyRun {
  void* to;
  const void* from;
  size_t bytes;
};

struct ChecksumIsa {
  const char* name;
  uint64_t (*hash)(const void* data, size_t bytes);
  // Writes the hash of every 4 KiB chunk of `data`.
  void (*hash_chunks)(const void* data, size_t bytes, uint64_t* hashes);
  // The same over what it wrote to `dst`.
  void (*copy_chunks)(void* dst, const void* src, size_t bytes, uint64_t* hashes);
  // The copy alone.
  void (*copy)(void* dst, const void* src, size_t bytes);
  // Pieces of a larger copy, past the cache whatever their size and alignment; fence() after the last one. Of `known`
  // runs the first `count` are copied; the others are what comes next. `bytes` of stream_chunks is a multiple of 4 KiB.
  void (*stream_runs)(const CopyRun* runs, size_t count, size_t known);
  void (*stream_chunks)(void* dst, const void* src, size_t bytes, uint64_t* hashes);
  void (*fence)();
};

// The fastest that this machine runs, chosen at the first call.
const ChecksumIsa& FastestIsa();

extern const ChecksumIsa kBaseline;  // SSE2 on x86-64, NEON on AArch64
#if defined(__x86_64__)
extern const ChecksumIsa kAvx2;
extern const ChecksumIsa kAvx512;
#endif

inline constexpr size_t kIsasMax = 3;

// Fills `isas` with those that this machine runs, slowest first, and returns their number (1..kIsasMax).
size_t AvailableIsas(const ChecksumIsa* isas[kIsasMax]);

}  // namespace stem::checksum_internal
