#include <algorithm>

#include "kernels/block_copy.h"
#include "kernels/plan_copy.h"
#include "proto/status.h"

namespace stem {
namespace {

using block_copy_internal::Invalid;
using block_copy_internal::PlanCopy;

// `product` times `factor`, or anything above kCanonicalBytesMax when that is too much.
uint64_t BoundedProduct(uint64_t product, uint64_t factor) {
  uint64_t result = 0;
  return __builtin_mul_overflow(product, factor, &result) ? UINT64_MAX : result;
}

absl::Status CheckLatent(const BlockShape& shape) {
  if (shape.order != PageOrder::kLatent) return absl::OkStatus();
  if (shape.heads != 1) return Invalid("heads is ", shape.heads, "; latent pages have 1");
  if (shape.value_bytes == 0) return absl::OkStatus();
  return Invalid("value_bytes is ", shape.value_bytes, "; latent pages have no V plane, so 0");
}

template <typename Block>
absl::Status Copy(const BlockShape& shape, const PagedCache& cache, std::span<const Block> blocks) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const CopyPlan plan, PlanCopy(shape, cache, blocks, shape.block_bytes(), items));
  RunOnHost(plan);
  return absl::OkStatus();
}

template <typename Block>
absl::Status CopyAndHash(const BlockShape& shape, const PagedCache& cache, std::span<const Block> blocks,
                         std::span<BlockDigest> digests) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const CopyPlan plan, PlanCopy(shape, cache, blocks, shape.block_bytes(), items));
  STEM_TRY(block_copy_internal::CheckDigests(plan, plan.block_bytes(), digests));
  uint64_t* hashes[kBatchBlocksMax];
  for (size_t i = 0; i < digests.size(); ++i) hashes[i] = digests[i].chunk_hashes.data();
  RunOnHost(plan, hashes);
  for (BlockDigest& digest : digests) {
    digest.digest = DigestOfChunks(digest.name, plan.block_bytes(), digest.chunk_hashes);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckShape(const BlockShape& shape) {
  if (shape.layer_count == 0) return Invalid("layer_count is 0; a block covers at least 1 layer");
  if (shape.page_tokens == 0) return Invalid("page_tokens is 0; a page holds at least 1 token");
  if (shape.block_tokens == 0 || shape.block_tokens % shape.page_tokens != 0) {
    return Invalid("block_tokens is ", shape.block_tokens, "; it must be a multiple of page_tokens ",
                   shape.page_tokens);
  }
  if (shape.page_count() > kBlockPagesMax) {
    return Invalid("a block of ", shape.page_count(), " pages; at most ", kBlockPagesMax);
  }
  if (shape.heads == 0) return Invalid("heads is 0; there is at least 1");
  if (shape.key_bytes == 0) return Invalid("key_bytes is 0; a K row has at least 1 byte");
  STEM_TRY(CheckLatent(shape));
  if (shape.slice.count > 0 && uint64_t{shape.slice.block_first} + shape.slice.count > shape.heads) {
    return Invalid("heads ", shape.slice.block_first, "..", uint64_t{shape.slice.block_first} + shape.slice.count - 1,
                   " of a block; it has ", shape.heads);
  }
  if (shape.slice.count == 0 && shape.slice != HeadSlice{}) {
    return Invalid("a slice of 0 heads from ", std::max(shape.slice.block_first, shape.slice.page_first));
  }
  uint64_t bytes = shape.key_bytes;
  if (__builtin_add_overflow(bytes, shape.value_bytes, &bytes)) bytes = UINT64_MAX;
  for (uint64_t factor : {uint64_t{shape.heads}, uint64_t{shape.page_rows()}, uint64_t{shape.page_count()},
                          uint64_t{shape.layer_count}}) {
    bytes = BoundedProduct(bytes, factor);
  }
  if (bytes > kCanonicalBytesMax) {
    return Invalid("a block of ", bytes == UINT64_MAX ? "2^64 or more" : absl::StrCat(bytes), " bytes; at most ",
                   kCanonicalBytesMax);
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockShape> ShapeOf(const KvLayout& layout, uint32_t heads, PageOrder order, uint32_t block_tokens,
                                   uint32_t page_tokens) {
  if (order == PageOrder::kOpaque) return Invalid("an opaque page's bytes are the engine's to name, not the layout's");
  if (layout.latent() != (order == PageOrder::kLatent)) {
    return Invalid("the layout has ", layout.kv_heads, " KV heads; latent pages go with 0, NHD and HND with 1 or more");
  }
  if (layout.latent() ? heads != 0 : heads == 0 || heads > layout.kv_heads) {
    return Invalid("heads is ", heads, "; the layout has ", layout.kv_heads);
  }
  const uint64_t key_bits =
      (layout.latent() ? uint64_t{layout.latent_dim} + layout.rope_dim : layout.head_dim) * ElementBits(layout.dtype);
  const uint64_t value_bits = layout.latent() ? 0 : layout.value_dim * ElementBits(layout.dtype);
  if (key_bits % 8 != 0 || value_bits % 8 != 0) {
    return Invalid("rows of ", key_bits, " (K) and ", value_bits, " (V) bits; a row is a whole number of bytes");
  }
  const uint64_t scale_bytes = layout.scales == ScaleScheme::kNone ? 0 : sizeof(float);
  BlockShape shape;
  shape.order = order;
  shape.block_tokens = block_tokens;
  shape.page_tokens = page_tokens;
  shape.heads = layout.latent() ? 1 : heads;
  shape.key_bytes = key_bits / 8 + scale_bytes;
  shape.value_bytes = layout.latent() ? 0 : value_bits / 8 + scale_bytes;
  shape.layer_count = layout.layers;
  STEM_TRY(CheckShape(shape));
  return shape;
}

absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks) {
  return Copy(shape, cache, blocks);
}

absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks) {
  return Copy(shape, cache, blocks);
}

absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block) {
  const BlockDestination destination = {pages, block};
  return Gather(shape, cache, std::span(&destination, 1));
}

absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block) {
  const BlockSource source = {pages, block};
  return Scatter(shape, cache, std::span(&source, 1));
}

absl::Status GatherAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                             std::span<BlockDigest> digests) {
  return CopyAndHash(shape, cache, blocks, digests);
}

absl::Status ScatterAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                              std::span<BlockDigest> digests) {
  return CopyAndHash(shape, cache, blocks, digests);
}

}  // namespace stem
