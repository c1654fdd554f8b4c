// The digest's loops for AVX2. Compiled with -mavx2; called only after the CPU was asked.
#define XXH_INLINE_ALL
#include <immintrin.h>
#include <xxhash.h>

namespace {

inline void StreamLine(char* to, char* keep, const char* from) {
  for (int i = 0; i < 2; ++i, to += 32, keep += 32, from += 32) {
    __m256i part = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    asm volatile("" : "+x"(part));  // both stores take this load
    _mm256_store_si256(reinterpret_cast<__m256i*>(keep), part);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), part);
  }
}

inline void StreamLine(char* to, const char* from) {
  for (int i = 0; i < 2; ++i, to += 32, from += 32) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
}

}  // namespace

#define STEM_STREAM
#define STEM_ISA kAvx2
#define STEM_ISA_NAME "avx2"
#include "kernels/checksum_body.h"
