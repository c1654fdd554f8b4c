// The loops of checksum_isa.h. Included once by each checksum_<instruction set>.cc, which first defines STEM_ISA (the
// name of its table), STEM_ISA_NAME and, where there are non-temporal stores, STEM_STREAM and
// StreamLine(to, keep, from): copies one 64-byte line from `from`, reading it once, to the aligned lines `to`
// (non-temporal) and `keep`; StreamLine(to, from): to `to` alone.
#include <cstring>

#include "kernels/checksum_isa.h"

namespace stem::checksum_internal {
namespace {

constexpr size_t kChunk = 4096;

uint64_t Hash(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

void HashChunks(const void* data, size_t bytes, uint64_t* hashes) {
  const char* from = static_cast<const char*>(data);
  for (; bytes >= kChunk; bytes -= kChunk, from += kChunk) *hashes++ = XXH3_64bits(from, kChunk);
  if (bytes > 0) *hashes = XXH3_64bits(from, bytes);
}

// Copy, then hash the copy. The barrier keeps the compiler from hashing `src`, which may differ by now.
void CopyCachedChunks(char* to, const char* from, size_t bytes, uint64_t* hashes) {
  while (bytes > 0) {
    const size_t step = bytes < kChunk ? bytes : kChunk;
    std::memcpy(to, from, step);
    asm volatile("" : : "r"(to) : "memory");
    *hashes++ = XXH3_64bits(to, step);
    bytes -= step;
    to += step;
    from += step;
  }
}

#ifdef STEM_STREAM
constexpr size_t kLine = 64;
// Payloads from this size on are written past the cache: a third faster than memcpy when cold, slower when all of it
// is in the cache (kernels/README.md, "Numbers"); smaller ones are the likelier to be read again at once.
constexpr size_t kStreamBytesMin = 64 * 1024;
// How far ahead of the copy to fetch; 1 KiB was the best of 1, 2 and 4 on all three instruction sets.
constexpr size_t kAheadBytes = 1024;

void StreamChunks(char* to, const char* from, size_t bytes, uint64_t* hashes) {
  alignas(kLine) char keep[kChunk];
  for (; bytes >= kChunk; bytes -= kChunk, to += kChunk, from += kChunk) {
    for (size_t line = 0; line < kChunk; line += kLine) {
      __builtin_prefetch(from + line + kAheadBytes);
      StreamLine(to + line, keep + line, from + line);
    }
    asm volatile("" : : "r"(keep) : "memory");
    *hashes++ = XXH3_64bits(keep, kChunk);
  }
  _mm_sfence();  // streamed lines are weakly ordered: publish them before anyone is told
  CopyCachedChunks(to, from, bytes, hashes);
}

void StreamCopy(char* to, const char* from, size_t bytes) {
  for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) {
    __builtin_prefetch(from + kAheadBytes);
    StreamLine(to, from);
  }
  _mm_sfence();
  std::memcpy(to, from, bytes);
}
#endif

void CopyChunks(void* dst, const void* src, size_t bytes, uint64_t* hashes) {
  char* to = static_cast<char*>(dst);
  const char* from = static_cast<const char*>(src);
#ifdef STEM_STREAM
  if (bytes >= kStreamBytesMin && reinterpret_cast<uintptr_t>(to) % kLine == 0) {
    return StreamChunks(to, from, bytes, hashes);
  }
#endif
  CopyCachedChunks(to, from, bytes, hashes);
}

void Copy(void* dst, const void* src, size_t bytes) {
#ifdef STEM_STREAM
  if (bytes >= kStreamBytesMin && reinterpret_cast<uintptr_t>(dst) % kLine == 0) {
    return StreamCopy(static_cast<char*>(dst), static_cast<const char*>(src), bytes);
  }
#endif
  std::memcpy(dst, src, bytes);
}

}  // namespace

const ChecksumIsa STEM_ISA = {STEM_ISA_NAME, Hash, HashChunks, CopyChunks, Copy};

}  // namespace stem::checksum_internal
