// Gather and scatter that quantize on the way: pages of bf16, fp16 or fp32 <-> blocks of fp8, int8 or int4 codes with
// scales. Lossy, so a namespace of its own; digests are of the quantized bytes. Source: proto/FORMAT.md, "Quantized blocks".
// The same bits on every instruction set and on the GPU.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/block_copy.h"
#include "kernels/quant_plan.h"

namespace stem {

// How values become codes. A scale is the largest magnitude of its values divided by the codec's largest (448, 57344,
// 127, 7); codes are rounded to nearest, ties to even. Values of a scale whose largest magnitude is below 2^-100 become
// zeros; those of a scale that a NaN or an infinity is among become NaNs.
struct Quantization {
  quant::Element element = quant::Element::kBf16;  // in the pages
  quant::Codec codec = quant::Codec::kInt8;
  ScaleAxis axis = ScaleAxis::kToken;
};

// Bytes of a quantized block. Meaningful only for what CheckQuantization() accepts.
uint64_t QuantizedBytes(const BlockShape& shape, const Quantization& quantization);

// InvalidArgument, with the value: as CheckShape; opaque pages; rows that are not whole elements, an odd number of them
// for int4, more than kRowElementsMax or, with a scale per channel, more than kChannelsMax in all heads.
absl::Status CheckQuantization(const BlockShape& shape, const Quantization& quantization);

// The largest error of a value `value` whose scale was taken from `largest` (the largest magnitude of its row, or of its
// channel), before it is rounded to the page's element once more: the codec's half step, plus 2^-13 of it for the fp32
// arithmetic. Tested against float64 in tests/property/quantize_property_test.cc.
//   int8 largest/254, int4 largest/14, e4m3 max(|value| / 16, largest / 448 / 1024), e5m2 max(|value| / 8,
//   largest / 57344 / 131072); and 2^-100.
double QuantizationErrorMax(quant::Codec codec, double value, double largest);

// As Gather and Scatter, and as GatherAndDigest and ScatterAndDigest when `digests` are given. `shape` says what lies in
// the pages; a block has QuantizedBytes(). Errors besides: InvalidArgument as CheckQuantization, for planes, strides or
// rows that are no multiple of the element's size, and for a gather of a slice of heads.
absl::Status GatherQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                             std::span<const BlockDestination> blocks, std::span<BlockDigest> digests = {});
absl::Status ScatterQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                              std::span<const BlockSource> blocks, std::span<BlockDigest> digests = {});

// Between a canonical block of the shape (its paging does not matter) and its quantized form.
absl::Status QuantizeBlock(const BlockShape& shape, const Quantization& quantization, std::span<const std::byte> block,
                           std::span<std::byte> quantized);
absl::Status DequantizeBlock(const BlockShape& shape, const Quantization& quantization,
                             std::span<const std::byte> quantized, std::span<std::byte> block);

// The same, queued on `stream`, as in block_copy.h. Errors besides: Internal (launch refused), Unimplemented (built
// without CUDA).
absl::Status GatherQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                             std::span<const BlockDestination> blocks, const Stream& stream);
absl::Status ScatterQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                              std::span<const BlockSource> blocks, const Stream& stream);

namespace quantize_internal {

// The checks above. `items` as in plan_copy.h.
absl::StatusOr<QuantPlan> PlanQuantized(const BlockShape& shape, const PagedCache& cache,
                                        const Quantization& quantization, std::span<const BlockDestination> blocks,
                                        CopyItem* items);
absl::StatusOr<QuantPlan> PlanQuantized(const BlockShape& shape, const PagedCache& cache,
                                        const Quantization& quantization, std::span<const BlockSource> blocks,
                                        CopyItem* items);

}  // namespace quantize_internal

}  // namespace stem
