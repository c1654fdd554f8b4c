// A checked quantizing gather or scatter, in plain types. Internal to kernels/ and its tests; quantize.h is the way in.
#pragma once

#include "kernels/copy_plan.h"
#include "kernels/quant_math.h"

namespace stem {

enum class ScaleAxis : uint8_t { kToken, kChannel };  // one scale per head and token; per head and channel

inline constexpr uint32_t kRowElementsMax = 2048;
inline constexpr uint32_t kChannelsMax = 16384;  // heads times elements, with a scale each

// `copy` says where the engine's rows are; the block is in its quantized form. Source: proto/FORMAT.md, "Quantized blocks".
struct QuantPlan {
  CopyPlan copy;
  quant::Element element = quant::Element::kBf16;
  quant::Codec codec = quant::Codec::kInt8;
  ScaleAxis axis = ScaleAxis::kToken;
  uint32_t elements[2] = {0, 0};  // of a K row and of a V row

  constexpr uint64_t code_bytes(int plane) const {
    return codec == quant::Codec::kInt4 ? elements[plane] / 2 : elements[plane];
  }
  constexpr uint64_t row_bytes(int plane) const {
    return elements[plane] == 0 ? 0 : code_bytes(plane) + (axis == ScaleAxis::kToken ? sizeof(float) : 0);
  }
  // Scales that stand before a plane's rows.
  constexpr uint64_t scale_bytes(int plane) const {
    return axis == ScaleAxis::kToken ? 0 : uint64_t{copy.block_heads} * elements[plane] * sizeof(float);
  }
  constexpr uint64_t plane_bytes(int plane) const {
    return scale_bytes(plane) + copy.rows() * copy.block_heads * row_bytes(plane);
  }
  constexpr uint64_t layer_bytes() const { return plane_bytes(0) + plane_bytes(1); }
  constexpr uint64_t block_bytes() const { return copy.layer_count * layer_bytes(); }
};

// The CPU twin. A gather is of whole blocks. `hashes` as for RunOnHost(CopyPlan).
void RunOnHost(const QuantPlan& plan, uint64_t* const* hashes = nullptr);

}  // namespace stem
