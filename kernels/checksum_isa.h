// The digest's inner loops, compiled once per instruction set. Internal to kernels/ and its tests.
// Plain C types only: an inline function that is shared with other files and compiled for AVX here could be the copy
// that the linker keeps for everyone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stem::checksum_internal {

struct ChecksumIsa {
  const char* name;
  uint64_t (*hash)(const void* data, size_t bytes);
  // Writes the hash of every 4 KiB chunk of `data`.
  void (*hash_chunks)(const void* data, size_t bytes, uint64_t* hashes);
  // The same over what it wrote to `dst`.
  void (*copy_chunks)(void* dst, const void* src, size_t bytes, uint64_t* hashes);
  // The copy alone.
  void (*copy)(void* dst, const void* src, size_t bytes);
};

extern const ChecksumIsa kBaseline;  // SSE2 on x86-64, NEON on AArch64
#if defined(__x86_64__)
extern const ChecksumIsa kAvx2;
extern const ChecksumIsa kAvx512;
#endif

inline constexpr size_t kIsasMax = 3;

// Fills `isas` with those that this machine runs, slowest first, and returns their number (1..kIsasMax).
size_t AvailableIsas(const ChecksumIsa* isas[kIsasMax]);

}  // namespace stem::checksum_internal
