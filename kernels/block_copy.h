// Gather and scatter between an engine's paged KV cache and one contiguous block in the canonical layout
// [layer][K, then V][token][head][row bytes]. Source: proto/FORMAT.md, "Canonical blocks".
// Every call exists twice: on the host (always built, the oracle) and queued on a CUDA stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/copy_plan.h"
#include "proto/kv_layout.h"

namespace stem {

class Stream;

// How an engine orders the bytes of one page of one layer.
enum class PageOrder : uint8_t {
  kNhd,     // [token][head][row]
  kHnd,     // [head][token][row]
  kLatent,  // MLA: [token][row], K plane only, `heads` = 1
  kOpaque,  // the engine's own: pages are copied whole; `heads` = 1 and a row is a page
};

// The shape of one block (or of the part of it that one rank holds).
struct BlockShape {
  PageOrder order = PageOrder::kNhd;
  uint32_t block_tokens = 0;  // a multiple of page_tokens
  uint32_t page_tokens = 0;
  uint32_t heads = 1;
  uint64_t key_bytes = 0;    // K row: one token's K of one head, the latent, or an opaque K page
  uint64_t value_bytes = 0;  // V row likewise; 0 = no V plane. Rows include scales kept per token and head
  uint32_t layer_first = 0;  // of the engine's layers
  uint32_t layer_count = 0;

  constexpr uint32_t page_count() const { return page_tokens == 0 ? 0 : block_tokens / page_tokens; }
  // Tokens per page as the copy sees them: an opaque page is one row.
  constexpr uint32_t page_rows() const { return order == PageOrder::kOpaque ? 1 : page_tokens; }
  // Bytes of the canonical block. Meaningful only for a shape that CheckShape() accepts.
  constexpr uint64_t block_bytes() const {
    return uint64_t{layer_count} * page_count() * page_rows() * heads * (key_bytes + value_bytes);
  }
};

inline constexpr uint64_t kCanonicalBytesMax = 1ULL << 30;  // of one block
inline constexpr uint32_t kBlockPagesMax = 1024;            // of one block

// InvalidArgument, with the value, when the shape is no shape: a zero, tokens that do not fill pages, a V plane or
// heads where the order has none, more than kCanonicalBytesMax or kBlockPagesMax.
absl::Status CheckShape(const BlockShape& shape);

// The shape of `heads` KV heads of `layout` (a latent has none: pass 0) in an engine's pages, all layers;
// block_bytes() is then layout.part_bytes(). Errors: InvalidArgument when a row is no whole number of bytes, when
// order and layout disagree about a latent, for kOpaque, and as CheckShape.
absl::StatusOr<BlockShape> ShapeOf(const KvLayout& layout, uint32_t heads, PageOrder order, uint32_t block_tokens,
                                   uint32_t page_tokens);

// An engine's cache. Borrowed; the memory must live until the copy is over.
struct PagedCache {
  std::span<const LayerPages> layers;  // all layers of this rank
  uint64_t page_stride_bytes = 0;      // from one page of a plane to the next; at least the page's bytes
  uint32_t page_count = 0;             // pages of a plane: page ids are below it
};

// Copies the block that lies in `pages` (page ids, shape.page_count() of them, in token order) to `block`
// (shape.block_bytes()). Never allocates. Any thread.
// Errors: InvalidArgument (with the value) for a bad shape, a page id or layer the cache does not have, a page listed
// twice, a block of another size, a null or overlapping plane; nothing was copied then.
absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block);

// The inverse: copies `block` into the pages. Bytes of other pages, and between a page and the stride, stay.
absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block);

// The same, queued on `stream` for planes and a block that the GPU can address (its own or pinned memory). The tables
// are read before the return, the bytes after it; never allocates, never synchronises.
// Errors besides: Internal (launch refused), Unimplemented (built without CUDA).
absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block, const Stream& stream);
absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block, const Stream& stream);

namespace block_copy_internal {

// The checks above; the plan borrows from all its arguments. `block` is written only by a gather.
absl::StatusOr<CopyPlan> PlanCopy(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                                  std::span<std::byte> block, CopyDirection direction);

inline std::span<std::byte> Writable(std::span<const std::byte> block) {
  return {const_cast<std::byte*>(block.data()), block.size()};
}

}  // namespace block_copy_internal

}  // namespace stem
