// The reference of quantizing gather and scatter: a plan, value by value, by the words of proto/FORMAT.md. Plain types, so
// that tests/gpu builds it with nvcc alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/quant_plan.h"

namespace stem {

inline float ReadElement(const std::byte* at, quant::Element element) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, element == quant::Element::kFp32 ? 4 : 2);
  if (element == quant::Element::kBf16) return quant::FromBf16(static_cast<uint16_t>(bits));
  return element == quant::Element::kFp16 ? quant::FromFp16(static_cast<uint16_t>(bits)) : quant::Float(bits);
}

inline void WriteElement(std::byte* at, quant::Element element, float value) {
  const uint32_t bits = element == quant::Element::kBf16   ? quant::ToBf16(value)
                        : element == quant::Element::kFp16 ? quant::ToFp16(value)
                                                           : quant::Bits(value);
  std::memcpy(at, &bits, element == quant::Element::kFp32 ? 4 : 2);
}

template <typename Visit>
void WithCodec(quant::Codec codec, Visit visit) {
  if (codec == quant::Codec::kFp8E4m3) visit(quant::CodecOf<quant::Codec::kFp8E4m3>());
  if (codec == quant::Codec::kFp8E5m2) visit(quant::CodecOf<quant::Codec::kFp8E5m2>());
  if (codec == quant::Codec::kInt8) visit(quant::CodecOf<quant::Codec::kInt8>());
  if (codec == quant::Codec::kInt4) visit(quant::CodecOf<quant::Codec::kInt4>());
}

// Runs `plan` with one codec: every value finds its row in the page, its code and its scale by itself.
template <typename Format>
void RunScalar(const QuantPlan& plan, const CopyItem& item, Format) {
  const CopyPlan& copy = plan.copy;
  const bool gather = copy.direction == CopyDirection::kGather, by_token = plan.axis == ScaleAxis::kToken;
  const uint64_t element_bytes = plan.element == quant::Element::kFp32 ? 4 : 2;
  for (uint64_t layer = 0; layer < copy.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      const uint64_t n = plan.elements[plane];
      std::byte* const at = item.block + layer * plan.layer_bytes() + (plane == 0 ? 0 : plan.plane_bytes(0));
      const auto value = [&](uint64_t token, uint64_t head, uint64_t i) {
        const uint64_t page = item.pages[(copy.layer_tables ? layer * copy.page_count : 0) + token / copy.page_rows];
        const uint64_t t = token % copy.page_rows, h = copy.page_head_first + head;
        const uint64_t row = copy.head_major ? h * copy.page_rows + t : t * copy.page_heads + h;
        std::byte* const base = plane == 0 ? copy.layers[layer].keys : copy.layers[layer].values;
        return base + page * copy.page_stride_bytes + row * copy.row_stride_bytes[plane] + i * element_bytes;
      };
      const auto codes = [&](uint64_t token, uint64_t head) {
        return at + plan.scale_bytes(plane) +
               (token * copy.block_heads + copy.block_head_first + head) * plan.row_bytes(plane);
      };
      const auto largest = [&](uint64_t token, uint64_t head, uint64_t i) {
        uint32_t bits = 0;
        for (uint64_t other = 0; other < (by_token ? n : copy.rows()); ++other) {
          const std::byte* const beside = by_token ? value(token, head, other) : value(other, head, i);
          bits = std::max(bits, quant::Bits(ReadElement(beside, plan.element)) & 0x7FFFFFFF);
        }
        return bits;
      };
      for (uint64_t token = 0; n > 0 && token < copy.rows(); ++token) {
        for (uint64_t head = 0; head < copy.heads; ++head) {
          for (uint64_t i = 0; i < n; ++i) {
            std::byte* const scale_at =
                by_token ? codes(token, head) + plan.code_bytes(plane) : at + ((copy.block_head_first + head) * n + i) * 4;
            const bool packed = plan.codec == quant::Codec::kInt4;
            std::byte& code = codes(token, head)[packed ? i / 2 : i];
            const unsigned shift = packed && i % 2 == 1 ? 4 : 0;
            if (gather) {
              const quant::Scale scale = quant::ScaleOf(largest(token, head, i), Format::kLargest);
              std::memcpy(scale_at, &scale.scale, 4);
              const unsigned bits = Format::Encode(quant::Scaled(ReadElement(value(token, head, i), plan.element), scale.inverse));
              const unsigned kept = packed ? static_cast<unsigned>(code) & (shift == 0 ? 0xF0U : 0x0FU) : 0;
              code = static_cast<std::byte>(kept | (packed ? (bits & 0xF) << shift : bits));
            } else {
              float scale;
              std::memcpy(&scale, scale_at, 4);
              const auto bits = static_cast<uint8_t>(packed ? static_cast<unsigned>(code) >> shift & 0xF : static_cast<unsigned>(code));
              WriteElement(value(token, head, i), plan.element, quant::Product(Format::Decode(bits), scale));
            }
          }
        }
      }
    }
  }
}

inline void RunScalar(const QuantPlan& plan) {
  for (uint32_t i = 0; i < plan.copy.item_count; ++i) {
    WithCodec(plan.codec, [&](auto format) { RunScalar(plan, plan.copy.items[i], format); });
  }
}

}  // namespace stem
