// From a word of a copy to its places in page and block: what each GPU thread computes, for host and device, so that
// tests hold it to the reference without a GPU. Internal to kernels/ and its tests.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/copy_plan.h"

#ifdef __CUDACC__
#define STEM_HOST_DEVICE __host__ __device__
#else
#define STEM_HOST_DEVICE
#endif

namespace stem {

// Division of numbers below 2^31 by a constant: a multiplication and a shift, where a GPU's own takes dozens of steps.
// Source: Granlund and Montgomery, "Division by Invariant Integers using Multiplication", 1994, figure 4.1.
struct Divider {
  uint32_t divisor = 1;
  uint32_t magic = 1;
  uint32_t shift = 0;

  static Divider Of(uint64_t divisor) {
    Divider result;
    result.divisor = static_cast<uint32_t>(divisor);
    while ((uint64_t{1} << result.shift) < divisor) ++result.shift;
    const uint64_t excess = (uint64_t{1} << result.shift) - divisor;
    result.magic = static_cast<uint32_t>(((excess << 32) / divisor) + 1);
    return result;
  }
  STEM_HOST_DEVICE uint32_t Quotient(uint32_t n) const {
    const auto high = static_cast<uint32_t>((uint64_t{n} * magic) >> 32);
    return (high + n) >> shift;
  }
};

// The words of one item, [layer][plane][token][head][word], numbered one after another. With a digest they are all words
// of the block; else those that are copied.
struct CopyIndex {
  uint32_t word_bytes;
  uint32_t layer_words;
  uint32_t key_words;  // of a layer's K plane
  uint32_t heads;      // that are numbered
  uint32_t page_count;
  uint32_t row_words[2];
  Divider layer;
  Divider token[2];
  Divider row[2];
  Divider page_rows;
  uint64_t layer_bytes;  // of the block
  uint64_t key_bytes;    // of the block's K plane of a layer
  uint64_t row_bytes[2];
  uint64_t page_token_bytes[2];
  uint64_t page_head_bytes[2];
  uint64_t page_stride_bytes;
  uint32_t block_heads;
  uint32_t block_head_first;
  uint32_t page_head_first;
  uint32_t slice_heads;  // copied
  uint32_t head_base;    // block head of the first numbered one
  bool layer_tables;

  static CopyIndex Of(const CopyPlan& plan, uint32_t word_bytes, bool whole_block) {
    CopyIndex index = {};
    index.word_bytes = word_bytes;
    index.heads = whole_block ? plan.block_heads : plan.heads;
    index.page_count = plan.page_count;
    index.page_rows = Divider::Of(plan.page_rows);
    for (int plane = 0; plane < 2; ++plane) {
      const uint64_t row_words = plan.row_bytes[plane] / word_bytes;
      const uint64_t page_row = plan.row_stride_bytes[plane];
      index.row_words[plane] = static_cast<uint32_t>(row_words);
      index.row_bytes[plane] = plan.row_bytes[plane];
      index.row[plane] = Divider::Of(row_words == 0 ? 1 : row_words);
      index.token[plane] = Divider::Of(row_words == 0 ? 1 : row_words * index.heads);
      index.page_token_bytes[plane] = plan.head_major ? page_row : plan.page_heads * page_row;
      index.page_head_bytes[plane] = plan.head_major ? plan.page_rows * page_row : page_row;
    }
    index.key_words = static_cast<uint32_t>(plan.rows() * index.heads * index.row_words[0]);
    index.layer_words = index.key_words + static_cast<uint32_t>(plan.rows() * index.heads * index.row_words[1]);
    index.layer = Divider::Of(index.layer_words);
    index.layer_bytes = plan.layer_bytes();
    index.key_bytes = plan.plane_bytes(0);
    index.page_stride_bytes = plan.page_stride_bytes;
    index.block_heads = plan.block_heads;
    index.block_head_first = plan.block_head_first;
    index.page_head_first = plan.page_head_first;
    index.slice_heads = plan.heads;
    index.head_base = whole_block ? 0 : plan.block_head_first;
    index.layer_tables = plan.layer_tables;
    return index;
  }

  struct Place {
    uint32_t layer;
    uint32_t table;         // of the item's page ids
    uint64_t page_bytes;    // from the page's first byte
    uint64_t block_bytes;   // from the block's first byte
    bool values;            // in the V plane
    bool copied;            // false: of a head outside the slice
  };

  STEM_HOST_DEVICE Place Locate(uint32_t word) const {
    Place place;
    place.layer = layer.Quotient(word);
    uint32_t rest = word - place.layer * layer.divisor;
    place.values = rest >= key_words;
    if (place.values) rest -= key_words;
    const int plane = place.values ? 1 : 0;
    const uint32_t token_at = token[plane].Quotient(rest);
    rest -= token_at * token[plane].divisor;
    const uint32_t head_at = row[plane].Quotient(rest);
    const uint64_t in_row = uint64_t{rest - head_at * row[plane].divisor} * word_bytes;
    const uint32_t page = page_rows.Quotient(token_at);
    const uint32_t page_token = token_at - page * page_rows.divisor;
    const uint32_t block_head = head_base + head_at;
    const uint32_t in_slice = block_head - block_head_first;  // wraps below the slice
    place.copied = in_slice < slice_heads;
    place.table = (layer_tables ? place.layer * page_count : 0) + page;
    place.page_bytes = page_token * page_token_bytes[plane] +
                       (page_head_first + in_slice) * page_head_bytes[plane] + in_row;
    place.block_bytes = place.layer * layer_bytes + (place.values ? key_bytes : 0) +
                        (uint64_t{token_at} * block_heads + block_head) * row_bytes[plane] + in_row;
    return place;
  }
};

// The widest of 16, 4 and 1 bytes that divides every address, row and stride of a plan.
inline uint32_t WordBytes(const CopyPlan& plan) {
  uint64_t bits = plan.row_bytes[0] | plan.row_bytes[1] | plan.page_stride_bytes | plan.row_stride_bytes[0] |
                  plan.row_stride_bytes[1];
  for (uint32_t i = 0; i < plan.item_count; ++i) bits |= reinterpret_cast<uintptr_t>(plan.items[i].block);
  for (uint32_t i = 0; i < plan.layer_count; ++i) {
    bits |= reinterpret_cast<uintptr_t>(plan.layers[i].keys) | reinterpret_cast<uintptr_t>(plan.layers[i].values);
  }
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 1;
}

}  // namespace stem
