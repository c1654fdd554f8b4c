// The loops of quant_isa.h, written for the compiler to vectorize. Included once by each quant_<instruction set>.cc,
// which first defines STEM_QUANT_ISA and STEM_QUANT_ISA_NAME and is compiled for that set.
#include "kernels/quant_isa.h"

namespace stem::quant {
namespace {

constexpr size_t kTile = 256;

// `count` codes of a byte each -> how they are stored. Little-endian: the first of two is the low byte of the pair.
template <Codec kCodec>
void Store(const uint8_t* codes, size_t count, void* to) {
  if constexpr (kCodec != Codec::kInt4) {
    __builtin_memcpy(to, codes, count);
  } else {
    auto* const out = static_cast<uint8_t*>(to);
    for (size_t i = 0; i < count / 2; ++i) {
      out[i] = static_cast<uint8_t>((codes[2 * i] & 0xF) | codes[2 * i + 1] << 4);
    }
  }
}

template <Codec kCodec>
void Fetch(const void* from, size_t count, uint8_t* codes) {
  if constexpr (kCodec != Codec::kInt4) {
    __builtin_memcpy(codes, from, count);
  } else {
    const auto* const in = static_cast<const uint8_t*>(from);
    for (size_t i = 0; i < count / 2; ++i) {
      codes[2 * i] = in[i] & 0xF;
      codes[2 * i + 1] = in[i] >> 4;
    }
  }
}

template <Codec kCodec>
constexpr size_t CodeBytes(size_t count) {
  return kCodec == Codec::kInt4 ? count / 2 : count;
}

template <Element kElement>
uint32_t Largest(const typename ElementOf<kElement>::Stored* row, size_t count) {
  using Stored = typename ElementOf<kElement>::Stored;
  constexpr Stored kMagnitude = static_cast<Stored>(Stored(~Stored{0}) >> 1);
  Stored largest = 0;  // magnitudes order as their bits do
  for (size_t i = 0; i < count; ++i) {
    const Stored magnitude = row[i] & kMagnitude;
    largest = magnitude > largest ? magnitude : largest;
  }
  return Bits(ElementOf<kElement>::Read(largest));
}

template <Element kElement, Codec kCodec>
void Quantize(const void* from, size_t count, void* to, float* scale) {
  const auto* row = static_cast<const typename ElementOf<kElement>::Stored*>(from);
  auto* codes = static_cast<uint8_t*>(to);
  const Scale chosen = ScaleOf(Largest<kElement>(row, count), CodecOf<kCodec>::kLargest);
  *scale = chosen.scale;
  if (chosen.inverse == 0) {
    __builtin_memset(codes, 0, CodeBytes<kCodec>(count));
    return;
  }
  for (size_t at = 0; at < count; at += kTile) {
    const size_t tile = count - at < kTile ? count - at : kTile;
    uint8_t kept[kTile];
    for (size_t i = 0; i < tile; ++i) {
      kept[i] = CodecOf<kCodec>::Encode(Product(ElementOf<kElement>::Read(row[at + i]), chosen.inverse));
    }
    Store<kCodec>(kept, tile, codes + CodeBytes<kCodec>(at));
  }
}

template <Element kElement, Codec kCodec>
void Dequantize(const void* from, size_t count, float scale, void* to) {
  const auto* const codes = static_cast<const uint8_t*>(from);
  auto* const row = static_cast<typename ElementOf<kElement>::Stored*>(to);
  for (size_t at = 0; at < count; at += kTile) {
    const size_t tile = count - at < kTile ? count - at : kTile;
    uint8_t kept[kTile];
    Fetch<kCodec>(codes + CodeBytes<kCodec>(at), tile, kept);
    for (size_t i = 0; i < tile; ++i) {
      row[at + i] = ElementOf<kElement>::Write(Product(CodecOf<kCodec>::Decode(kept[i]), scale));
    }
  }
}

template <Element kElement>
void Magnitudes(const void* from, size_t count, uint32_t* largest) {
  const auto* const row = static_cast<const typename ElementOf<kElement>::Stored*>(from);
  for (size_t i = 0; i < count; ++i) {
    const uint32_t magnitude = Bits(ElementOf<kElement>::Read(row[i])) & 0x7FFFFFFF;
    largest[i] = magnitude > largest[i] ? magnitude : largest[i];
  }
}

template <Element kElement, Codec kCodec>
void QuantizeChannels(const void* from, size_t count, const float* inverses, void* to) {
  const auto* const row = static_cast<const typename ElementOf<kElement>::Stored*>(from);
  auto* const codes = static_cast<uint8_t*>(to);
  for (size_t at = 0; at < count; at += kTile) {
    const size_t tile = count - at < kTile ? count - at : kTile;
    uint8_t kept[kTile];
    for (size_t i = 0; i < tile; ++i) {
      kept[i] = CodecOf<kCodec>::Encode(Scaled(ElementOf<kElement>::Read(row[at + i]), inverses[at + i]));
    }
    Store<kCodec>(kept, tile, codes + CodeBytes<kCodec>(at));
  }
}

template <Element kElement, Codec kCodec>
void DequantizeChannels(const void* from, size_t count, const float* scales, void* to) {
  const auto* const codes = static_cast<const uint8_t*>(from);
  auto* const row = static_cast<typename ElementOf<kElement>::Stored*>(to);
  for (size_t at = 0; at < count; at += kTile) {
    const size_t tile = count - at < kTile ? count - at : kTile;
    uint8_t kept[kTile];
    Fetch<kCodec>(codes + CodeBytes<kCodec>(at), tile, kept);
    for (size_t i = 0; i < tile; ++i) {
      row[at + i] = ElementOf<kElement>::Write(Product(CodecOf<kCodec>::Decode(kept[i]), scales[at + i]));
    }
  }
}

#define STEM_CODECS(function, element)                                                \
  {                                                                                   \
    function<Element::element, Codec::kFp8E4m3>, function<Element::element, Codec::kFp8E5m2>, \
        function<Element::element, Codec::kInt8>, function<Element::element, Codec::kInt4>    \
  }
#define STEM_ELEMENTS(function) \
  { STEM_CODECS(function, kBf16), STEM_CODECS(function, kFp16), STEM_CODECS(function, kFp32) }

}  // namespace

const QuantIsa STEM_QUANT_ISA = {
    STEM_QUANT_ISA_NAME,
    STEM_ELEMENTS(Quantize),
    STEM_ELEMENTS(Dequantize),
    {Magnitudes<Element::kBf16>, Magnitudes<Element::kFp16>, Magnitudes<Element::kFp32>},
    STEM_ELEMENTS(QuantizeChannels),
    STEM_ELEMENTS(DequantizeChannels),
};

#undef STEM_ELEMENTS
#undef STEM_CODECS

}  // namespace stem::quant
