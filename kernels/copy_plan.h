// A checked gather or scatter, in plain types, so that the CPU twin and the GPU kernel build with nothing but a
// compiler. Internal to kernels/ and its tests; block_copy.h is the way in.
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

// Page: `page_rows` times `heads` rows of `row_bytes`; block: [layer][plane][page][row][head][row bytes].
// Borrows every pointer.
struct CopyPlan {
  const LayerPages* layers = nullptr;
  uint32_t layer_count = 0;
  const uint32_t* pages = nullptr;
  uint32_t page_count = 0;  // entries of `pages`
  uint64_t page_stride_bytes = 0;
  uint32_t page_rows = 0;  // tokens of a page, or 1 where pages are copied whole
  uint32_t heads = 0;
  bool head_major = false;             // a page is [head][row], not [row][head]
  uint64_t row_bytes[2] = {0, 0};      // of K and of V; 0 = no such plane
  std::byte* block = nullptr;
  CopyDirection direction = CopyDirection::kGather;

  constexpr uint64_t page_bytes(int plane) const { return uint64_t{page_rows} * heads * row_bytes[plane]; }
  // Bytes of one layer of the block.
  constexpr uint64_t layer_bytes() const { return page_count * (page_bytes(0) + page_bytes(1)); }
};

// The CPU twin: runs a plan whose addresses are the host's.
void RunOnHost(const CopyPlan& plan);

}  // namespace stem
