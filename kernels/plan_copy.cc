#include "kernels/plan_copy.h"

#include <algorithm>
#include <bit>

#include "proto/status.h"

namespace stem::block_copy_internal {
namespace {

bool Overlap(const std::byte* a, uint64_t a_bytes, const std::byte* b, uint64_t b_bytes) {
  const auto a_at = reinterpret_cast<uintptr_t>(a);
  const auto b_at = reinterpret_cast<uintptr_t>(b);
  return a_at < b_at + b_bytes && b_at < a_at + a_bytes;
}

// Page ids that were seen: an open-addressing table on the stack, no larger than what it must hold asks for.
class SeenPages {
 public:
  explicit SeenPages(size_t pages) : mask_(static_cast<uint32_t>(std::bit_ceil(2 * pages)) - 1) {
    std::fill_n(slots_, mask_ + 1, kNone);
  }
  void Clear() { std::fill_n(slots_, mask_ + 1, kNone); }
  // False when it was there already.
  bool Add(uint32_t page) {
    uint32_t at = page * 0x9E3779B1U >> 7 & mask_;
    while (slots_[at] != kNone) {
      if (slots_[at] == page) return false;
      at = (at + 1) & mask_;
    }
    slots_[at] = page;
    return true;
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;  // no page id: ids are below a count
  const uint32_t mask_;
  uint32_t slots_[2 * kBatchPagesMax];
};

// Where id `i` of an item's table stands, for messages.
std::string Place(const CopyPlan& plan, uint32_t item, uint64_t i) {
  return absl::StrCat(i % plan.page_count, plan.layer_tables ? absl::StrCat(" of layer ", i / plan.page_count) : "",
                      plan.item_count > 1 ? absl::StrCat(" of block ", item) : "");
}

absl::Status CheckPages(const CopyPlan& plan, uint32_t cache_pages) {
  const uint64_t pages = uint64_t{plan.item_count} * plan.page_count;
  if (pages > kBatchPagesMax) return Invalid("a batch of ", pages, " pages in a layer; at most ", kBatchPagesMax);
  const bool scatter = plan.direction == CopyDirection::kScatter;
  SeenPages seen(scatter ? pages : plan.page_count);
  const uint64_t tables = plan.layer_tables ? plan.layer_count : 1;
  for (uint64_t table = 0; table < tables; ++table) {
    if (table > 0) seen.Clear();
    for (uint32_t item = 0; item < plan.item_count; ++item) {
      if (item > 0 && !scatter) seen.Clear();
      const uint32_t* const ids = plan.items[item].pages + table * plan.page_count;
      for (uint32_t i = 0; i < plan.page_count; ++i) {
        const uint64_t at = table * plan.page_count + i;
        if (ids[i] >= cache_pages) {
          return Invalid("page ", ids[i], " at ", Place(plan, item, at), "; the cache has ", cache_pages, " pages");
        }
        if (!seen.Add(ids[i])) return Invalid("page ", ids[i], " is listed twice, again at ", Place(plan, item, at));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCache(const BlockShape& shape, const PagedCache& cache, CopyPlan& plan) {
  if (uint64_t{shape.layer_first} + shape.layer_count > cache.layers.size()) {
    return Invalid("layers ", shape.layer_first, "..", uint64_t{shape.layer_first} + shape.layer_count - 1,
                   "; the cache has ", cache.layers.size());
  }
  const uint64_t page_rows = uint64_t{plan.page_rows} * plan.page_heads;
  if (page_rows > kCanonicalBytesMax) return Invalid("a page of ", page_rows, " rows; at most ", kCanonicalBytesMax);
  for (int plane = 0; plane < 2; ++plane) {
    const uint64_t row_bytes = plan.row_bytes[plane];
    const uint64_t stride = cache.row_stride_bytes[plane] == 0 ? row_bytes : cache.row_stride_bytes[plane];
    if (stride < row_bytes || stride > kCanonicalBytesMax) {
      return Invalid("row_stride_bytes of ", plane == 0 ? "K" : "V", " is ", stride, "; a row has ", row_bytes);
    }
    plan.row_stride_bytes[plane] = stride;
    const uint64_t page_bytes = row_bytes == 0 ? 0 : plan.page_extent_bytes(plane);
    if (cache.page_stride_bytes < page_bytes) {
      return Invalid("page_stride_bytes is ", cache.page_stride_bytes, "; a page has ", page_bytes);
    }
  }
  uint64_t extent = 0;
  if (__builtin_mul_overflow(cache.page_stride_bytes, cache.page_count, &extent) || extent > (1ULL << 47)) {
    return Invalid("page_stride_bytes ", cache.page_stride_bytes, " times page_count ", cache.page_count,
                   " is more than an address space");
  }
  plan.page_stride_bytes = cache.page_stride_bytes;
  return absl::OkStatus();
}

absl::Status SetHeads(const BlockShape& shape, const PagedCache& cache, CopyPlan& plan) {
  plan.block_heads = shape.heads;
  plan.page_heads = cache.page_heads == 0 ? shape.heads : cache.page_heads;
  plan.heads = shape.slice.count == 0 ? shape.heads : shape.slice.count;
  plan.page_head_first = shape.slice.page_first;
  plan.block_head_first = shape.slice.block_first;
  if (plan.page_heads > (1U << 20)) return Invalid("page_heads is ", plan.page_heads, "; at most ", 1U << 20);
  if (shape.slice.count == 0 && plan.page_heads != shape.heads) {
    return Invalid("a page has ", plan.page_heads, " heads and the block ", shape.heads, "; a slice says which to copy");
  }
  if (uint64_t{plan.page_head_first} + plan.heads > plan.page_heads) {
    return Invalid("heads ", plan.page_head_first, "..", uint64_t{plan.page_head_first} + plan.heads - 1,
                   " of a page; it has ", plan.page_heads);
  }
  return absl::OkStatus();
}

// The pages of all items against one block, page by page: only where the block lies within a plane's extent.
absl::Status CheckOverlap(const CopyPlan& plan, const std::byte* block, uint64_t block_bytes, uint32_t layer,
                          uint32_t layer_first, int plane) {
  const std::byte* const base = plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values;
  const uint64_t table = plan.layer_tables ? uint64_t{layer} * plan.page_count : 0;
  for (uint32_t item = 0; item < plan.item_count; ++item) {
    for (uint32_t i = 0; i < plan.page_count; ++i) {
      const uint32_t page = plan.items[item].pages[table + i];
      if (Overlap(base + page * plan.page_stride_bytes, plan.page_extent_bytes(plane), block, block_bytes)) {
        return Invalid("the block overlaps ", plane == 0 ? "K" : "V", " page ", page, " of layer ",
                       layer_first + layer);
      }
    }
  }
  return absl::OkStatus();
}

// Every plane is there, and none of its listed pages shares a byte with a block.
absl::Status CheckPlanes(const CopyPlan& plan, uint32_t layer_first, uint64_t extent_bytes, uint64_t block_bytes) {
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      if (plan.row_bytes[plane] == 0) continue;
      const std::byte* const base = plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values;
      if (base == nullptr) {
        return Invalid("the ", plane == 0 ? "K" : "V", " pages of layer ", layer_first + layer, " are null");
      }
      for (uint32_t item = 0; item < plan.item_count; ++item) {
        const std::byte* const block = plan.items[item].block;
        if (!Overlap(base, extent_bytes, block, block_bytes)) continue;
        STEM_TRY(CheckOverlap(plan, block, block_bytes, layer, layer_first, plane));
      }
    }
  }
  return absl::OkStatus();
}

// Blocks that are written must be apart. They mostly ascend, which is one comparison each.
absl::Status CheckBlocksApart(const CopyPlan& plan, uint64_t block_bytes) {
  bool ascend = true;
  for (uint32_t i = 1; i < plan.item_count; ++i) {
    ascend = ascend && plan.items[i - 1].block + block_bytes <= plan.items[i].block;
  }
  if (ascend) return absl::OkStatus();
  for (uint32_t i = 1; i < plan.item_count; ++i) {
    for (uint32_t j = 0; j < i; ++j) {
      if (Overlap(plan.items[i].block, block_bytes, plan.items[j].block, block_bytes)) {
        return Invalid("blocks ", j, " and ", i, " of the batch overlap");
      }
    }
  }
  return absl::OkStatus();
}

std::byte* Writable(std::span<std::byte> block) { return block.data(); }
std::byte* Writable(std::span<const std::byte> block) { return const_cast<std::byte*>(block.data()); }

// Everything but items and their pages.
absl::StatusOr<CopyPlan> PlanShape(const BlockShape& shape, const PagedCache& cache, CopyDirection direction) {
  STEM_TRY(CheckShape(shape));
  CopyPlan plan;
  plan.layer_count = shape.layer_count;
  plan.page_count = shape.page_count();
  plan.head_major = shape.order == PageOrder::kHnd;
  plan.page_rows = shape.page_rows();
  plan.row_bytes[0] = shape.key_bytes;
  plan.row_bytes[1] = shape.value_bytes;
  plan.direction = direction;
  STEM_TRY(SetHeads(shape, cache, plan));
  STEM_TRY(CheckCache(shape, cache, plan));
  plan.layers = &cache.layers[shape.layer_first];
  return plan;
}

template <typename Block>
absl::StatusOr<CopyPlan> Plan(const BlockShape& shape, const PagedCache& cache, std::span<const Block> blocks,
                              uint64_t block_bytes, CopyItem* items, CopyDirection direction) {
  STEM_ASSIGN(CopyPlan plan, PlanShape(shape, cache, direction));
  if (blocks.empty()) return Invalid("a batch of 0 blocks; there is at least 1");
  if (blocks.size() > kBatchBlocksMax) return Invalid("a batch of ", blocks.size(), " blocks; at most ", kBatchBlocksMax);
  plan.items = items;
  plan.item_count = static_cast<uint32_t>(blocks.size());
  plan.layer_tables = shape.layer_count > 1 && blocks[0].pages.size() == uint64_t{shape.layer_count} * plan.page_count;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    if (block.pages.size() != plan.table_pages()) {
      return Invalid("the page table has ", block.pages.size(), " pages; a block of ", shape.block_tokens,
                     " tokens needs ", plan.page_count, plan.layer_tables ? " in each layer" : "");
    }
    if (block.block.data() == nullptr) return Invalid("the block is null");
    if (block.block.size() != block_bytes) {
      return Invalid("the block has ", block.block.size(), " bytes; its shape needs ", block_bytes);
    }
    items[i] = {block.pages.data(), Writable(block.block)};
  }
  STEM_TRY(CheckPages(plan, cache.page_count));
  STEM_TRY(CheckPlanes(plan, shape.layer_first, cache.page_stride_bytes * cache.page_count, block_bytes));
  if (direction == CopyDirection::kGather) STEM_TRY(CheckBlocksApart(plan, block_bytes));
  return plan;
}

}  // namespace

absl::StatusOr<CopyPlan> PlanCopy(const BlockShape& shape, const PagedCache& cache,
                                  std::span<const BlockDestination> blocks, uint64_t block_bytes,
                                  CopyItem* items) {
  return Plan(shape, cache, blocks, block_bytes, items, CopyDirection::kGather);
}

absl::StatusOr<CopyPlan> PlanCopy(const BlockShape& shape, const PagedCache& cache,
                                  std::span<const BlockSource> blocks, uint64_t block_bytes, CopyItem* items) {
  return Plan(shape, cache, blocks, block_bytes, items, CopyDirection::kScatter);
}

absl::StatusOr<CopyPlan> PlanSequence(const BlockShape& shape, const PagedCache& cache,
                                      std::span<const uint32_t> pages, bool check_pages, CopyItem& item) {
  STEM_ASSIGN(CopyPlan plan, PlanShape(shape, cache, CopyDirection::kScatter));
  if (pages.size() > kBatchPagesMax) return Invalid("a sequence of ", pages.size(), " pages; at most ", kBatchPagesMax);
  item = {pages.data(), nullptr};
  plan.items = &item;
  plan.item_count = 1;
  plan.page_count = static_cast<uint32_t>(pages.size());
  if (check_pages) STEM_TRY(CheckPages(plan, cache.page_count));
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    if (plan.layers[layer].keys != nullptr && (plan.row_bytes[1] == 0 || plan.layers[layer].values != nullptr)) continue;
    return Invalid("the pages of layer ", shape.layer_first + layer, " are null");
  }
  return plan;
}

absl::Status CheckDigests(const CopyPlan& plan, uint64_t block_bytes, std::span<const BlockDigest> digests) {
  if (digests.size() != plan.item_count) {
    return Invalid("a batch of ", plan.item_count, " blocks with ", digests.size(), " digests");
  }
  for (const BlockDigest& digest : digests) {
    if (digest.chunk_hashes.size() == ChunkCount(block_bytes)) continue;
    return Invalid(digest.chunk_hashes.size(), " chunk hashes; a block of ", block_bytes, " bytes has ",
                   ChunkCount(block_bytes));
  }
  if (plan.direction == CopyDirection::kGather && !plan.whole_block()) {
    return Invalid("a gather of ", plan.heads, " of ", plan.block_heads, " heads has no digest of the block");
  }
  return absl::OkStatus();
}

}  // namespace stem::block_copy_internal
