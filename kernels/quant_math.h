// Elements and codes of quantized KV, one value at a time, for host and device: both sides reach the same bits, as every
// step is one correctly rounded operation (no fused multiply-add: the host files are compiled with -ffp-contract=off,
// the device's products are marked). Plain code without branches, so that compilers turn its loops into vectors.
// Source: the OCP 8-bit Floating Point Specification, revision 1.0, for E4M3 and E5M2.
#pragma once

#include <cstdint>
#include <cstring>

// Always inlined: the same function is compiled for several instruction sets, and no copy may be shared between them.
#ifdef __CUDACC__
#define STEM_INLINE __host__ __device__ __forceinline__
#else
#define STEM_INLINE __attribute__((always_inline)) inline
#endif

namespace stem::quant {

enum class Element : uint8_t { kBf16, kFp16, kFp32 };
enum class Codec : uint8_t { kFp8E4m3, kFp8E5m2, kInt8, kInt4 };

inline constexpr uint32_t kInfinityBits = 0x7F800000;
inline constexpr uint32_t kNanBits = 0x7FC00000;
// Rows whose largest magnitude is below 2^-100 become zeros: their inverse scale could overflow.
inline constexpr uint32_t kTinyBits = (127U - 100) << 23;

STEM_INLINE uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

STEM_INLINE float Float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

STEM_INLINE float Product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

STEM_INLINE float Sum(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

STEM_INLINE float Ratio(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

STEM_INLINE uint32_t Choose(bool first, uint32_t a, uint32_t b) { return first ? a : b; }

// ---- elements -> fp32, exact
STEM_INLINE float FromBf16(uint16_t bits) { return Float(uint32_t{bits} << 16); }

STEM_INLINE float FromFp16(uint16_t half) {
  const uint32_t magnitude = half & 0x7FFFU;
  const uint32_t normal = (magnitude << 13) + ((127U - 15) << 23);
  const uint32_t subnormal = Bits(Product(static_cast<float>(static_cast<int32_t>(magnitude)), 0x1p-24F));
  const uint32_t special = (magnitude << 13) | kInfinityBits;
  const uint32_t bits = Choose(magnitude < 0x0400, subnormal, Choose(magnitude >= 0x7C00, special, normal));
  return Float(bits | (uint32_t{half} & 0x8000U) << 16);
}

// ---- fp32 -> elements, to nearest, ties to even
STEM_INLINE uint16_t ToBf16(float value) {
  const uint32_t bits = Bits(value);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const uint32_t nan = bits >> 16 | 0x0040;
  return static_cast<uint16_t>(Choose((bits & 0x7FFFFFFF) > kInfinityBits, nan, rounded));
}

STEM_INLINE uint16_t ToFp16(float value) {
  const uint32_t bits = Bits(value);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  const uint32_t normal = ((magnitude + 0xFFF + ((magnitude >> 13) & 1)) >> 13) - ((127U - 15) << 10);
  const uint32_t subnormal = Bits(Sum(Float(magnitude), 0.5F)) - Bits(0.5F);  // an ulp of 0.5 is fp16's smallest step
  const uint32_t finite = Choose(magnitude < ((127U - 14) << 23), subnormal, normal);
  const uint32_t large = Choose(magnitude > kInfinityBits, 0x7E00, 0x7C00);
  return static_cast<uint16_t>(Choose(magnitude >= 0x477FF000, large, finite) | (bits >> 16 & 0x8000));
}

// ---- fp32 -> codes, of values already divided by their scale
STEM_INLINE int32_t ToInteger(float value) {  // to nearest, ties to even; below 2^22
  return static_cast<int32_t>(Bits(Sum(value, 0x1.8p23F)) - Bits(0x1.8p23F));
}

// An fp8 code with kMantissa mantissa bits and the exponent bias kBias; magnitudes above `largest` become that.
template <uint32_t kMantissa, uint32_t kBias>
STEM_INLINE uint32_t ToFp8(float value, uint32_t largest) {
  constexpr uint32_t kDropped = 23 - kMantissa;
  constexpr uint32_t kSmallestNormal = (127U - kBias + 1) << 23;
  const float step = Float((127U - kBias + 1 + kDropped) << 23);  // whose ulp is the smallest code's value
  const uint32_t bits = Bits(value);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  const uint32_t even = (magnitude >> kDropped) & 1;
  const uint32_t normal = ((magnitude + ((1U << (kDropped - 1)) - 1) + even) >> kDropped) -
                          ((127U - kBias) << kMantissa);
  const uint32_t subnormal = Bits(Sum(Float(magnitude), step)) - Bits(step);
  const uint32_t code = Choose(magnitude < kSmallestNormal, subnormal, normal);
  return Choose(code > largest, largest, code) | (bits >> 24 & 0x80);
}

template <uint32_t kMantissa, uint32_t kBias>
STEM_INLINE float FromFp8(uint32_t code) {
  const uint32_t magnitude = code & 0x7F;
  const uint32_t normal = (magnitude << (23 - kMantissa)) + ((127U - kBias) << 23);
  const float smallest = Float((127U - kBias + 1 - kMantissa) << 23);
  const uint32_t subnormal = Bits(Product(static_cast<float>(static_cast<int32_t>(magnitude)), smallest));
  return Float(Choose(magnitude < (1U << kMantissa), subnormal, normal) | (code & 0x80) << 24);
}

// A codec's largest code as a value, and codes of eight bits (int4: sign-extended; two are packed in a byte, the first
// element in the low four bits).
template <Codec kCodec>
struct CodecOf;

template <>
struct CodecOf<Codec::kFp8E4m3> {
  static constexpr float kLargest = 448;
  STEM_INLINE static uint8_t Encode(float value) { return static_cast<uint8_t>(ToFp8<3, 7>(value, 0x7E)); }
  STEM_INLINE static float Decode(uint8_t code) { return FromFp8<3, 7>(code); }
};

template <>
struct CodecOf<Codec::kFp8E5m2> {
  static constexpr float kLargest = 57344;
  STEM_INLINE static uint8_t Encode(float value) { return static_cast<uint8_t>(ToFp8<2, 15>(value, 0x7B)); }
  STEM_INLINE static float Decode(uint8_t code) { return FromFp8<2, 15>(code); }
};

template <>
struct CodecOf<Codec::kInt8> {
  static constexpr float kLargest = 127;
  STEM_INLINE static uint8_t Encode(float value) { return static_cast<uint8_t>(ToInteger(value)); }
  STEM_INLINE static float Decode(uint8_t code) {
    return static_cast<float>(static_cast<int32_t>(static_cast<int8_t>(code)));
  }
};

template <>
struct CodecOf<Codec::kInt4> {
  static constexpr float kLargest = 7;
  STEM_INLINE static uint8_t Encode(float value) { return static_cast<uint8_t>(ToInteger(value)); }
  STEM_INLINE static float Decode(uint8_t code) {
    return static_cast<float>((static_cast<int32_t>(code & 0xF) ^ 8) - 8);
  }
};

template <Element kElement>
struct ElementOf;

template <>
struct ElementOf<Element::kBf16> {
  using Stored = uint16_t;
  STEM_INLINE static float Read(Stored bits) { return FromBf16(bits); }
  STEM_INLINE static Stored Write(float value) { return ToBf16(value); }
};

template <>
struct ElementOf<Element::kFp16> {
  using Stored = uint16_t;
  STEM_INLINE static float Read(Stored bits) { return FromFp16(bits); }
  STEM_INLINE static Stored Write(float value) { return ToFp16(value); }
};

template <>
struct ElementOf<Element::kFp32> {
  using Stored = uint32_t;
  STEM_INLINE static float Read(Stored bits) { return Float(bits); }
  STEM_INLINE static Stored Write(float value) { return Bits(value); }
};

// What the values with the largest magnitude `largest_bits` (fp32 bits without the sign) are multiplied by to get codes,
// and the codes by to get values. Where a value is not finite the scale is NaN and all codes are 0.
struct Scale {
  float inverse;
  float scale;
};

STEM_INLINE Scale ScaleOf(uint32_t largest_bits, float codec_largest) {
  if (largest_bits < kTinyBits) return {0, 0};
  if (largest_bits >= kInfinityBits) return {0, Float(kNanBits)};
  return {Ratio(codec_largest, Float(largest_bits)), Ratio(Float(largest_bits), codec_largest)};
}

// The value to encode: 0 where the inverse is 0, whatever the element is (a NaN times 0 is none).
STEM_INLINE float Scaled(float value, float inverse) {
  return Float(Choose(inverse == 0, 0, Bits(Product(value, inverse))));
}

}  // namespace stem::quant
