#include "kernels/block_copy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// `product` times `factor`, or anything above kCanonicalBytesMax when that is too much.
uint64_t BoundedProduct(uint64_t product, uint64_t factor) {
  uint64_t result = 0;
  return __builtin_mul_overflow(product, factor, &result) ? UINT64_MAX : result;
}

absl::Status CheckOrder(const BlockShape& shape) {
  if (shape.order == PageOrder::kNhd || shape.order == PageOrder::kHnd) return absl::OkStatus();
  const char* const order = shape.order == PageOrder::kLatent ? "latent" : "opaque";
  if (shape.heads != 1) return Invalid("heads is ", shape.heads, "; ", order, " pages have 1");
  if (shape.order == PageOrder::kLatent && shape.value_bytes != 0) {
    return Invalid("value_bytes is ", shape.value_bytes, "; latent pages have no V plane, so 0");
  }
  return absl::OkStatus();
}

bool Overlap(const std::byte* a, uint64_t a_bytes, const std::byte* b, uint64_t b_bytes) {
  const auto a_at = reinterpret_cast<uintptr_t>(a);
  const auto b_at = reinterpret_cast<uintptr_t>(b);
  return a_at < b_at + b_bytes && b_at < a_at + a_bytes;
}

absl::Status CheckPages(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages) {
  if (pages.size() != shape.page_count()) {
    return Invalid("the page table has ", pages.size(), " pages; a block of ", shape.block_tokens, " tokens needs ",
                   shape.page_count());
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i] >= cache.page_count) {
      return Invalid("page ", pages[i], " at ", i, "; the cache has ", cache.page_count, " pages");
    }
    for (size_t j = 0; j < i; ++j) {
      if (pages[j] == pages[i]) return Invalid("page ", pages[i], " is listed twice, at ", j, " and ", i);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCache(const BlockShape& shape, const PagedCache& cache) {
  if (uint64_t{shape.layer_first} + shape.layer_count > cache.layers.size()) {
    return Invalid("layers ", shape.layer_first, "..", uint64_t{shape.layer_first} + shape.layer_count - 1,
                   "; the cache has ", cache.layers.size());
  }
  const uint64_t page_bytes =
      uint64_t{shape.page_rows()} * shape.heads * std::max(shape.key_bytes, shape.value_bytes);
  if (cache.page_stride_bytes < page_bytes) {
    return Invalid("page_stride_bytes is ", cache.page_stride_bytes, "; a page has ", page_bytes);
  }
  if (BoundedProduct(cache.page_stride_bytes, cache.page_count) > (1ULL << 47)) {
    return Invalid("page_stride_bytes ", cache.page_stride_bytes, " times page_count ", cache.page_count,
                   " is more than an address space");
  }
  return absl::OkStatus();
}

// Every plane is there, and none of its listed pages shares a byte with the block.
absl::Status CheckPlanes(const CopyPlan& plan, uint32_t layer_first) {
  const uint64_t block_bytes = plan.layer_count * plan.layer_bytes();
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      if (plan.row_bytes[plane] == 0) continue;
      const char* const name = plane == 0 ? "K" : "V";
      const std::byte* const base = plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values;
      if (base == nullptr) return Invalid("the ", name, " pages of layer ", layer_first + layer, " are null");
      for (uint32_t i = 0; i < plan.page_count; ++i) {
        if (Overlap(base + plan.pages[i] * plan.page_stride_bytes, plan.page_bytes(plane), plan.block, block_bytes)) {
          return Invalid("the block overlaps ", name, " page ", plan.pages[i], " of layer ", layer_first + layer);
        }
      }
    }
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
  STEM_TRY(CheckOrder(shape));
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

absl::StatusOr<CopyPlan> block_copy_internal::PlanCopy(const BlockShape& shape, const PagedCache& cache,
                                                       std::span<const uint32_t> pages, std::span<std::byte> block,
                                                       CopyDirection direction) {
  STEM_TRY(CheckShape(shape));
  STEM_TRY(CheckCache(shape, cache));
  STEM_TRY(CheckPages(shape, cache, pages));
  if (block.data() == nullptr) return Invalid("the block is null");
  if (block.size() != shape.block_bytes()) {
    return Invalid("the block has ", block.size(), " bytes; its shape needs ", shape.block_bytes());
  }
  CopyPlan plan;
  plan.layers = &cache.layers[shape.layer_first];
  plan.layer_count = shape.layer_count;
  plan.pages = pages.data();
  plan.page_count = shape.page_count();
  plan.page_stride_bytes = cache.page_stride_bytes;
  plan.page_rows = shape.page_rows();
  plan.heads = shape.heads;
  plan.head_major = shape.order == PageOrder::kHnd;
  plan.row_bytes[0] = shape.key_bytes;
  plan.row_bytes[1] = shape.value_bytes;
  plan.block = block.data();
  plan.direction = direction;
  STEM_TRY(CheckPlanes(plan, shape.layer_first));
  return plan;
}

absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block) {
  STEM_ASSIGN(const CopyPlan plan,
              block_copy_internal::PlanCopy(shape, cache, pages, block, CopyDirection::kGather));
  RunOnHost(plan);
  return absl::OkStatus();
}

absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block) {
  STEM_ASSIGN(const CopyPlan plan,
              block_copy_internal::PlanCopy(shape, cache, pages, block_copy_internal::Writable(block),
                                            CopyDirection::kScatter));
  RunOnHost(plan);
  return absl::OkStatus();
}

}  // namespace stem
