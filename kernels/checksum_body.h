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
// How far ahead of a copy to fetch: 4 and 8 KiB were the best of 0 to 32.
constexpr size_t kAheadBytes = 8192;

// The next chunk comes while this one is hashed.
constexpr size_t kChunkAheadBytes = 4096;

// To the second level: what is on its way to the first takes the buffers that stores past the cache need, too (Intel; kernels/README.md,
// "Decisions").
inline void Fetch(const void* line) { __builtin_prefetch(line, 0, 2); }

// Whole chunks to aligned lines; the caller fences.
void StreamWholeChunks(char* to, const char* from, size_t bytes, uint64_t* hashes) {
  alignas(kLine) char keep[kChunk];
  for (; bytes >= kChunk; bytes -= kChunk, to += kChunk, from += kChunk) {
    for (size_t line = 0; line < kChunk; line += kLine) {
      Fetch(from + line + kChunkAheadBytes);
      StreamLine(to + line, keep + line, from + line);
    }
    asm volatile("" : : "r"(keep) : "memory");
    *hashes++ = XXH3_64bits(keep, kChunk);
  }
}

void StreamChunks(char* to, const char* from, size_t bytes, uint64_t* hashes) {
  const size_t whole = bytes - bytes % kChunk;
  StreamWholeChunks(to, from, whole, hashes);
  _mm_sfence();  // streamed lines are weakly ordered: publish them before anyone is told
  CopyCachedChunks(to + whole, from + whole, bytes - whole, hashes + whole / kChunk);
}

void StreamCopy(char* to, const char* from, size_t bytes) {
  for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) {
    Fetch(from + kAheadBytes);
    StreamLine(to, from);
  }
  _mm_sfence();
  std::memcpy(to, from, bytes);
}

// The line that lies kAheadBytes ahead in the runs to come, step by step.
class Fetcher {
 public:
  Fetcher(const CopyRun* runs, size_t count) : run_(runs), end_(runs + count), at_(kAheadBytes) {
    while (run_ != end_ && at_ >= run_->bytes) at_ -= (run_++)->bytes;
  }
  void Next() {
    if (run_ == end_) return;
    Fetch(static_cast<const char*>(run_->from) + at_);
    at_ += kLine;
    if (at_ < run_->bytes) return;
    ++run_;
    at_ = 0;
  }

 private:
  const CopyRun* run_;
  const CopyRun* const end_;
  size_t at_;
};

void StreamRun(char* to, const char* from, size_t bytes, Fetcher& fetcher) {
  const size_t head = -reinterpret_cast<uintptr_t>(to) % kLine;
  if (bytes < head + kLine) {
    std::memcpy(to, from, bytes);
    return;
  }
  if (head > 0) {  // mostly not, and a call for nothing costs as much as copying a row
    std::memcpy(to, from, head);
    to += head;
    from += head;
    bytes -= head;
  }
  for (; bytes >= kLine; bytes -= kLine, to += kLine, from += kLine) {
    fetcher.Next();
    StreamLine(to, from);
  }
  if (bytes > 0) std::memcpy(to, from, bytes);
}
#endif

void StreamRuns(const CopyRun* runs, size_t count, [[maybe_unused]] size_t known) {
#ifdef STEM_STREAM
  Fetcher fetcher(runs, known);
#endif
  for (size_t i = 0; i < count; ++i) {
#ifdef STEM_STREAM
    StreamRun(static_cast<char*>(runs[i].to), static_cast<const char*>(runs[i].from), runs[i].bytes, fetcher);
#else
    std::memcpy(runs[i].to, runs[i].from, runs[i].bytes);
#endif
  }
}

void StreamOpenChunks(void* dst, const void* src, size_t bytes, uint64_t* hashes) {
  char* const to = static_cast<char*>(dst);
  const char* const from = static_cast<const char*>(src);
#ifdef STEM_STREAM
  if (reinterpret_cast<uintptr_t>(to) % kLine == 0) return StreamWholeChunks(to, from, bytes, hashes);
#endif
  CopyCachedChunks(to, from, bytes, hashes);
}

void Fence() {
#ifdef STEM_STREAM
  _mm_sfence();
#endif
}

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

const ChecksumIsa STEM_ISA = {STEM_ISA_NAME, Hash, HashChunks, CopyChunks, Copy,
                             StreamRuns,    StreamOpenChunks, Fence};

}  // namespace stem::checksum_internal
