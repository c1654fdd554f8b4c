// A checked batch of gathers or scatters, in plain types, so that the GPU kernels and their tests build with nothing but
// a compiler. Internal to kernels/ and its tests; block_copy.h is the way in.
#pragma once

#include <cstddef>
#include <cstdint>

namespace stem {

// Where the pages of one layer start: page p of K is at `keys + p * page_stride_bytes`, of V at `values + ...`.
struct LayerPages {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;  // null where the layout has no V plane
};

enum class CopyDirection : uint8_t { kGather, kScatter };  // pages -> block, block -> pages

// One block of a batch.
struct CopyItem {
  const uint32_t* pages;  // CopyPlan::table_pages() ids
  std::byte* block;       // written only by a gather
};

// Page: `page_rows` times `page_heads` rows; block: [layer][plane][page][row][head][row bytes] of `block_heads` heads.
// `heads` of them are copied. Borrows every pointer.
struct CopyPlan {
  const LayerPages* layers = nullptr;
  uint32_t layer_count = 0;
  const CopyItem* items = nullptr;
  uint32_t item_count = 0;
  uint32_t page_count = 0;    // of one block
  bool layer_tables = false;  // an item's pages are [layer][page_count], not one table for all layers
  bool head_major = false;    // a page is [head][row], not [row][head]
  uint64_t page_stride_bytes = 0;
  uint32_t page_rows = 0;  // tokens of a page, or 1 where pages (or a head's share of one) are copied whole
  uint32_t page_heads = 0;
  uint32_t page_head_first = 0;
  uint32_t block_heads = 0;
  uint32_t block_head_first = 0;
  uint32_t heads = 0;
  uint64_t row_bytes[2] = {0, 0};         // of K and of V; 0 = no such plane
  uint64_t row_stride_bytes[2] = {0, 0};  // from one row of a page to the next
  CopyDirection direction = CopyDirection::kGather;

  constexpr uint64_t table_pages() const { return layer_tables ? uint64_t{layer_count} * page_count : page_count; }
  constexpr uint64_t rows() const { return uint64_t{page_count} * page_rows; }  // of one head, plane and layer
  constexpr uint64_t plane_bytes(int plane) const { return rows() * block_heads * row_bytes[plane]; }
  // Bytes of one layer of the block, and of all of it.
  constexpr uint64_t layer_bytes() const { return plane_bytes(0) + plane_bytes(1); }
  constexpr uint64_t block_bytes() const { return layer_count * layer_bytes(); }
  // From a page's first byte to one behind its last row.
  constexpr uint64_t page_extent_bytes(int plane) const {
    return (uint64_t{page_rows} * page_heads - 1) * row_stride_bytes[plane] + row_bytes[plane];
  }
  constexpr bool whole_block() const { return heads == block_heads; }
};

// The CPU twin: runs a plan whose addresses are the host's. With `hashes`, hashes[i] gets the 4 KiB chunk hashes of
// item i's whole block: of the bytes that were written (gather, which must be of the whole block) or read.
void RunOnHost(const CopyPlan& plan, uint64_t* const* hashes = nullptr);

}  // namespace stem
