// Gather and scatter between an engine's paged KV cache and one contiguous block in the canonical layout
// [layer][K, then V][token][head][row bytes]. Source: proto/FORMAT.md, "Canonical blocks".
// Every call exists twice: on the host (always built, the oracle) and queued on a CUDA stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/checksum.h"
#include "kernels/copy_plan.h"
#include "proto/kv_layout.h"

namespace stem {

class Stream;

// How an engine orders the bytes of one page of one layer.
enum class PageOrder : uint8_t {
  kNhd,     // [token][head][row]
  kHnd,     // [head][token][row]
  kLatent,  // MLA: [token][row], K plane only, `heads` = 1
  kOpaque,  // the engine's own: a row is a page, or a head's share of one: [head][page]
};

// Which of a page's heads go with which of the block's: those from page_first on with those from block_first on. For
// readers and publishers of different tensor-parallel degrees; head_slice.h finds them.
struct HeadSlice {
  uint32_t page_first = 0;
  uint32_t block_first = 0;
  uint32_t count = 0;  // 0 = all heads, as many in the page as in the block

  friend bool operator==(const HeadSlice&, const HeadSlice&) = default;
};

// The shape of one block (or of the part of it that one rank holds).
struct BlockShape {
  PageOrder order = PageOrder::kNhd;
  uint32_t block_tokens = 0;  // a multiple of page_tokens
  uint32_t page_tokens = 0;
  uint32_t heads = 1;        // of the block
  uint64_t key_bytes = 0;    // K row: one token's K of one head, the latent, or an opaque K page
  uint64_t value_bytes = 0;  // V row likewise; 0 = no V plane. Rows include scales kept per token and head
  uint32_t layer_first = 0;  // of the engine's layers
  uint32_t layer_count = 0;
  HeadSlice slice = {};

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
inline constexpr uint32_t kBatchBlocksMax = 1024;           // of one call
inline constexpr uint32_t kBatchPagesMax = 16384;           // of one call, in one layer

// InvalidArgument, with the value, when the shape is no shape: a zero, tokens that do not fill pages, a V plane or
// latent heads where the order has none, a slice beyond the block, more than kCanonicalBytesMax or kBlockPagesMax.
absl::Status CheckShape(const BlockShape& shape);

// The shape of `heads` KV heads of `layout` (a latent has none: pass 0) in an engine's pages, all layers;
// block_bytes() is then layout.part_bytes(). Errors: InvalidArgument when a row is no whole number of bytes, when
// order and layout disagree about a latent, for kOpaque, and as CheckShape.
absl::StatusOr<BlockShape> ShapeOf(const KvLayout& layout, uint32_t heads, PageOrder order, uint32_t block_tokens,
                                   uint32_t page_tokens);

// An engine's cache. Borrowed; the memory must live until the copy is over. engine_cache.h makes one for each engine.
struct PagedCache {
  std::span<const LayerPages> layers;  // all layers of this rank
  uint64_t page_stride_bytes = 0;      // from one page of a plane to the next
  uint32_t page_count = 0;             // pages of a plane: page ids are below it
  uint32_t page_heads = 0;             // heads of a page; 0 = the shape's
  // From one row of a page to the next, of K and of V; 0 = the row's bytes. More where K and V lie row by row together.
  uint64_t row_stride_bytes[2] = {0, 0};
};

// One block of a batch. `pages`: shape.page_count() page ids in token order that hold in every layer, or layer_count
// times as many, layer by layer; all blocks of a batch the same. `block`: shape.block_bytes(). Both borrowed.
struct BlockDestination {
  std::span<const uint32_t> pages;
  std::span<std::byte> block;
};
struct BlockSource {
  std::span<const uint32_t> pages;
  std::span<const std::byte> block;
};

// The digest of one block of a batch (checksum.h).
struct BlockDigest {
  BlockName name;
  std::span<uint64_t> chunk_hashes;  // ChunkCount(shape.block_bytes()) of them; written
  uint64_t digest = 0;               // written
};

// Copies blocks that lie in pages to contiguous memory. Never allocates. Any thread.
// Errors: InvalidArgument (with the value) for a bad shape, a page id or layer the cache does not have, a page listed
// twice by one block, a block of another size, a null or overlapping plane, too many blocks or pages; nothing was copied
// then. A batch of no blocks is none either.
absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks);
// The inverse: copies blocks into pages; no page may be listed twice in the whole batch. Bytes of other pages, other
// heads, and between rows or pages stay.
absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks);

// The same of one block.
absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block);
absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block);

// The same with the digests of the blocks, in one pass over the bytes: of what was written to the block, or of what the
// pages were written from. After a scatter the caller compares, and treats the pages as garbage when they differ.
// Errors besides: InvalidArgument for another number of digests or hashes, and for a gather of a slice (the rest of the
// block is somebody else's; a scatter of a slice digests the whole block).
absl::Status GatherAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                             std::span<BlockDigest> digests);
absl::Status ScatterAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                              std::span<BlockDigest> digests);

// The same, queued on `stream` for planes and blocks that the GPU can address (its own or pinned memory). The tables
// are read before the return, the bytes after it; never allocates, never synchronises. A whole batch is one launch, or
// few (launch.h has the limits).
// Errors besides: Internal (launch refused), Unimplemented (built without CUDA).
absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                    const Stream& stream);
absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                     const Stream& stream);
// `names` and `outputs`: one for each block (checksum.h).
absl::Status GatherAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                             std::span<const BlockName> names, std::span<const DigestOutput> outputs,
                             const Stream& stream);
absl::Status ScatterAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                              std::span<const BlockName> names, std::span<const DigestOutput> outputs,
                              const Stream& stream);

}  // namespace stem
