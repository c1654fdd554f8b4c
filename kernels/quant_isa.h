// The inner loops of quantization, compiled once per instruction set; all give the same bits. Internal to kernels/ and
// its tests. Plain C types only, as in checksum_isa.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant_math.h"

namespace stem::quant {

inline constexpr int kElements = 3;
inline constexpr int kCodecs = 4;

struct QuantIsa {
  const char* name;
  // Row of `count` elements -> codes; *scale is theirs alone.
  void (*quantize[kElements][kCodecs])(const void* row, size_t count, void* codes, float* scale);
  void (*dequantize[kElements][kCodecs])(const void* codes, size_t count, float scale, void* row);
  // Raises largest[i] to the magnitude of element i, as fp32 bits.
  void (*magnitudes[kElements])(const void* row, size_t count, uint32_t* largest);
  // The same with a scale for each element.
  void (*quantize_channels[kElements][kCodecs])(const void* row, size_t count, const float* inverses, void* codes);
  void (*dequantize_channels[kElements][kCodecs])(const void* codes, size_t count, const float* scales, void* row);
};

extern const QuantIsa kQuantBaseline;
#if defined(__x86_64__)
extern const QuantIsa kQuantAvx2;
extern const QuantIsa kQuantAvx512;
#endif

inline constexpr size_t kQuantIsasMax = 3;

// Those that this machine runs, slowest first; returns their number (1..kQuantIsasMax).
size_t AvailableQuantIsas(const QuantIsa* isas[kQuantIsasMax]);

}  // namespace stem::quant
