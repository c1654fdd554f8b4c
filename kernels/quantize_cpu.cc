#include <algorithm>
#include <cmath>

#include "kernels/plan_copy.h"
#include "kernels/quantize.h"
#include "proto/status.h"

namespace stem {
namespace {

using block_copy_internal::Invalid;
using block_copy_internal::PlanCopy;
using quant::Codec;
using quant::Element;

uint64_t ElementBytes(Element element) { return element == Element::kFp32 ? 4 : 2; }

// A plan without addresses: enough for arithmetic.
QuantPlan ShapeOnly(const BlockShape& shape, const Quantization& quantization) {
  QuantPlan plan;
  plan.copy.layer_count = shape.layer_count;
  plan.copy.page_count = shape.page_count();
  plan.copy.page_rows = shape.page_rows();
  plan.copy.block_heads = shape.heads;
  plan.element = quantization.element;
  plan.codec = quantization.codec;
  plan.axis = quantization.axis;
  plan.elements[0] = static_cast<uint32_t>(shape.key_bytes / ElementBytes(quantization.element));
  plan.elements[1] = static_cast<uint32_t>(shape.value_bytes / ElementBytes(quantization.element));
  return plan;
}

absl::Status CheckAligned(const CopyPlan& plan, uint64_t element_bytes) {
  const auto aligned = [&](const std::byte* at) { return reinterpret_cast<uintptr_t>(at) % element_bytes == 0; };
  if (plan.page_stride_bytes % element_bytes != 0) {
    return Invalid("page_stride_bytes is ", plan.page_stride_bytes, "; it must be a multiple of the element's ",
                   element_bytes);
  }
  for (int plane = 0; plane < 2; ++plane) {
    if (plan.row_stride_bytes[plane] % element_bytes == 0) continue;
    return Invalid("row_stride_bytes is ", plan.row_stride_bytes[plane], "; it must be a multiple of the element's ",
                   element_bytes);
  }
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    if (aligned(plan.layers[layer].keys) && aligned(plan.layers[layer].values)) continue;
    return Invalid("the pages of layer ", layer, " of the copy are not aligned to the element's ", element_bytes,
                   " bytes");
  }
  return absl::OkStatus();
}

template <typename Block>
absl::StatusOr<QuantPlan> Plan(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                               std::span<const Block> blocks, CopyItem* items) {
  STEM_TRY(CheckQuantization(shape, quantization));
  QuantPlan plan = ShapeOnly(shape, quantization);
  STEM_ASSIGN(plan.copy, PlanCopy(shape, cache, blocks, plan.block_bytes(), items));
  STEM_TRY(CheckAligned(plan.copy, ElementBytes(quantization.element)));
  if (plan.copy.direction == CopyDirection::kGather && !plan.copy.whole_block()) {
    return Invalid("a quantizing gather of ", plan.copy.heads, " of ", plan.copy.block_heads, " heads; it takes all");
  }
  return plan;
}

template <typename Block>
absl::Status Run(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                 std::span<const Block> blocks, std::span<BlockDigest> digests) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const QuantPlan plan, Plan(shape, cache, quantization, blocks, items));
  if (digests.empty()) {
    RunOnHost(plan);
    return absl::OkStatus();
  }
  STEM_TRY(block_copy_internal::CheckDigests(plan.copy, plan.block_bytes(), digests));
  uint64_t* hashes[kBatchBlocksMax];
  for (size_t i = 0; i < digests.size(); ++i) hashes[i] = digests[i].chunk_hashes.data();
  RunOnHost(plan, hashes);
  for (BlockDigest& digest : digests) {
    digest.digest = DigestOfChunks(digest.name, plan.block_bytes(), digest.chunk_hashes);
  }
  return absl::OkStatus();
}

// A canonical block as the cache of an engine whose page is the block, layer by layer.
template <typename Block, typename Move>
absl::Status ByLayer(const BlockShape& shape, const Quantization& quantization, std::span<std::byte> canonical,
                     Block quantized, Move move) {
  STEM_TRY(CheckQuantization(shape, quantization));
  if (canonical.data() == nullptr || canonical.size() != shape.block_bytes()) {
    return Invalid("the canonical block has ", canonical.size(), " bytes; its shape needs ", shape.block_bytes());
  }
  const uint64_t bytes = QuantizedBytes(shape, quantization);
  if (quantized.data() == nullptr || quantized.size() != bytes) {
    return Invalid("the quantized block has ", quantized.size(), " bytes; its shape needs ", bytes);
  }
  BlockShape layer = shape;
  layer.order = shape.order == PageOrder::kLatent ? PageOrder::kLatent : PageOrder::kNhd;
  layer.page_tokens = shape.block_tokens;
  layer.layer_first = 0;
  layer.layer_count = 1;
  layer.slice = {};
  const uint64_t key_bytes = uint64_t{shape.block_tokens} * shape.heads * shape.key_bytes;
  for (uint32_t i = 0; i < shape.layer_count; ++i) {
    std::byte* const keys = canonical.data() + i * layer.block_bytes();
    const LayerPages pages = {keys, shape.value_bytes == 0 ? nullptr : keys + key_bytes};
    const PagedCache cache = {.layers = {&pages, 1}, .page_stride_bytes = layer.block_bytes(), .page_count = 1};
    const uint64_t share = bytes / shape.layer_count;
    STEM_TRY(move(layer, cache, quantized.subspan(i * share, share)));
  }
  return absl::OkStatus();
}

constexpr uint32_t kOnlyPage[1] = {0};

}  // namespace

uint64_t QuantizedBytes(const BlockShape& shape, const Quantization& quantization) {
  return ShapeOnly(shape, quantization).block_bytes();
}

absl::Status CheckQuantization(const BlockShape& shape, const Quantization& quantization) {
  STEM_TRY(CheckShape(shape));
  if (shape.order == PageOrder::kOpaque) return Invalid("opaque pages have no elements to quantize");
  if (quantization.element > Element::kFp32 || quantization.codec > Codec::kInt4) {
    return Invalid("element ", static_cast<int>(quantization.element), " and codec ",
                   static_cast<int>(quantization.codec), "; at most 2 and 3");
  }
  const uint64_t element_bytes = ElementBytes(quantization.element);
  for (const uint64_t row_bytes : {shape.key_bytes, shape.value_bytes}) {
    const uint64_t elements = row_bytes / element_bytes;
    if (row_bytes % element_bytes != 0) {
      return Invalid("rows of ", row_bytes, " bytes; an element has ", element_bytes);
    }
    if (elements > kRowElementsMax) return Invalid("rows of ", elements, " elements; at most ", kRowElementsMax);
    if (quantization.codec == Codec::kInt4 && elements % 2 != 0) {
      return Invalid("rows of ", elements, " elements; int4 packs two in a byte, so an even number");
    }
    if (quantization.axis == ScaleAxis::kChannel && elements * shape.heads > kChannelsMax) {
      return Invalid(elements * shape.heads, " channels with a scale each; at most ", kChannelsMax);
    }
  }
  return absl::OkStatus();
}

double QuantizationErrorMax(Codec codec, double value, double largest) {
  double half_step = 0;
  switch (codec) {
    case Codec::kInt8: half_step = largest / 254; break;
    case Codec::kInt4: half_step = largest / 14; break;
    case Codec::kFp8E4m3: half_step = std::max(std::abs(value) / 16, largest / 448 / 1024); break;
    case Codec::kFp8E5m2: half_step = std::max(std::abs(value) / 8, largest / 57344 / 131072); break;
  }
  return half_step * (1 + 0x1p-13) + 0x1p-100;
}

absl::Status GatherQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                             std::span<const BlockDestination> blocks, std::span<BlockDigest> digests) {
  return Run(shape, cache, quantization, blocks, digests);
}

absl::Status ScatterQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                              std::span<const BlockSource> blocks, std::span<BlockDigest> digests) {
  return Run(shape, cache, quantization, blocks, digests);
}

absl::Status QuantizeBlock(const BlockShape& shape, const Quantization& quantization, std::span<const std::byte> block,
                           std::span<std::byte> quantized) {
  // Only read: a gather writes nothing to its pages.
  const std::span<std::byte> pages(const_cast<std::byte*>(block.data()), block.size());
  return ByLayer(shape, quantization, pages, quantized,
                 [&](const BlockShape& layer, const PagedCache& cache, std::span<std::byte> share) {
                   const BlockDestination destination = {kOnlyPage, share};
                   return GatherQuantized(layer, cache, quantization, {&destination, 1});
                 });
}

absl::Status DequantizeBlock(const BlockShape& shape, const Quantization& quantization,
                             std::span<const std::byte> quantized, std::span<std::byte> block) {
  return ByLayer(shape, quantization, block, quantized,
                 [&](const BlockShape& layer, const PagedCache& cache, std::span<const std::byte> share) {
                   const BlockSource source = {kOnlyPage, share};
                   return ScatterQuantized(layer, cache, quantization, {&source, 1});
                 });
}

absl::StatusOr<QuantPlan> quantize_internal::PlanQuantized(const BlockShape& shape, const PagedCache& cache,
                                                           const Quantization& quantization,
                                                           std::span<const BlockDestination> blocks, CopyItem* items) {
  return Plan(shape, cache, quantization, blocks, items);
}

absl::StatusOr<QuantPlan> quantize_internal::PlanQuantized(const BlockShape& shape, const PagedCache& cache,
                                                           const Quantization& quantization,
                                                           std::span<const BlockSource> blocks, CopyItem* items) {
  return Plan(shape, cache, quantization, blocks, items);
}

}  // namespace stem
