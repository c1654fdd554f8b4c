// The digest's loops for every machine of the architecture: SSE2 on x86-64, whatever xxHash takes elsewhere.
#define XXH_INLINE_ALL
#include <xxhash.h>

#if defined(__x86_64__)
#include <emmintrin.h>

namespace {

inline void StreamLine(char* to, char* keep, const char* from) {
  for (int i = 0; i < 4; ++i, to += 16, keep += 16, from += 16) {
    __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    asm volatile("" : "+x"(part));  // both stores take this load
    _mm_store_si128(reinterpret_cast<__m128i*>(keep), part);
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), part);
  }
}

inline void StreamLine(char* to, const char* from) {
  for (int i = 0; i < 4; ++i, to += 16, from += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
}

}  // namespace

#define STEM_STREAM
#define STEM_ISA_NAME "sse2"
#else
#define STEM_ISA_NAME "baseline"
#endif
#define STEM_ISA kBaseline
#include "kernels/checksum_body.h"
