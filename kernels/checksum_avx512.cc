// The digest's loops for AVX-512. Compiled with -mavx512f -mavx512vl; called only after the CPU was asked.
#define XXH_INLINE_ALL
#define XXH_VECTOR 3  // XXH_AVX512: 0.8.1 does not choose it by itself
#include <immintrin.h>
#include <xxhash.h>

namespace {

inline void StreamLine(char* to, char* keep, const char* from) {
  __m512i part = _mm512_loadu_si512(from);
  asm volatile("" : "+v"(part));  // both stores take this load
  _mm512_store_si512(keep, part);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), part);
}

inline void StreamLine(char* to, const char* from) {
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
}

}  // namespace

#define STEM_STREAM
#define STEM_ISA kAvx512
#define STEM_ISA_NAME "avx512"
#include "kernels/checksum_body.h"
