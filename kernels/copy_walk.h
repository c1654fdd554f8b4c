// The pieces of a plan that are one run of bytes on both sides, in the order of the block. Host only; internal.
#pragma once

#include "kernels/copy_plan.h"

namespace stem {

// Calls emit(page bytes, block offset, bytes) for every run of `item`. Runs are as long as both sides allow: a page, a
// token's heads or a row.
template <typename Emit>
void ForEachRun(const CopyPlan& plan, const CopyItem& item, Emit emit) {
  uint64_t plane_at = 0;  // in the block
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    const uint32_t* const pages = item.pages + (plan.layer_tables ? uint64_t{layer} * plan.page_count : 0);
    for (int plane = 0; plane < 2; ++plane) {
      const uint64_t row_bytes = plan.row_bytes[plane];
      if (row_bytes == 0) continue;
      const uint64_t page_row = plan.row_stride_bytes[plane];
      const uint64_t page_head = plan.head_major ? plan.page_rows * page_row : page_row;
      const uint64_t page_token = plan.head_major ? page_row : plan.page_heads * page_row;
      const uint64_t block_token = plan.block_heads * row_bytes;
      const bool joined_heads = plan.heads == 1 || page_head == row_bytes;
      const uint64_t token_bytes = plan.heads * row_bytes;
      const bool joined_tokens =
          joined_heads && (plan.page_rows == 1 || (page_token == token_bytes && block_token == token_bytes));
      std::byte* const base = (plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values) +
                              plan.page_head_first * page_head;
      uint64_t at = plane_at + plan.block_head_first * row_bytes;
      for (uint32_t i = 0; i < plan.page_count; ++i) {
        std::byte* const page = base + pages[i] * plan.page_stride_bytes;
        if (joined_tokens) {
          emit(page, at, plan.page_rows * token_bytes);
          at += plan.page_rows * block_token;
          continue;
        }
        for (uint64_t row = 0; row < plan.page_rows; ++row, at += block_token) {
          std::byte* const token = page + row * page_token;
          if (joined_heads) {
            emit(token, at, token_bytes);
            continue;
          }
          for (uint64_t head = 0; head < plan.heads; ++head) {
            emit(token + head * page_head, at + head * row_bytes, row_bytes);
          }
        }
      }
      plane_at += plan.plane_bytes(plane);
    }
  }
}

}  // namespace stem
