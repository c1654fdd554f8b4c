// The reference that the CPU twins and the GPU kernels are held to: a copy plan, byte by byte, by its coordinates. Plain
// types, so that tests/gpu builds it with nvcc alone.
#pragma once

#include "kernels/copy_plan.h"

namespace stem {

// Calls visit(byte in the cache, offset in the block) for every byte that a plan copies for `item`, by the words of
// proto/FORMAT.md.
template <typename Visit>
void ForEachCopiedByte(const CopyPlan& p, const CopyItem& item, Visit visit) {
  for (uint64_t layer = 0; layer < p.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      const uint64_t bytes = p.row_bytes[plane];
      for (uint64_t token = 0; bytes > 0 && token < p.rows(); ++token) {
        const uint64_t page = item.pages[(p.layer_tables ? layer * p.page_count : 0) + token / p.page_rows];
        for (uint64_t head = 0; head < p.heads; ++head) {
          const uint64_t in_page = token % p.page_rows, page_head = p.page_head_first + head;
          const uint64_t row = p.head_major ? page_head * p.page_rows + in_page : in_page * p.page_heads + page_head;
          std::byte* const base = plane == 0 ? p.layers[layer].keys : p.layers[layer].values;
          std::byte* const at = base + page * p.page_stride_bytes + row * p.row_stride_bytes[plane];
          const uint64_t block_row = token * p.block_heads + p.block_head_first + head;
          const uint64_t offset = layer * p.layer_bytes() + (plane == 0 ? 0 : p.plane_bytes(0)) + block_row * bytes;
          for (uint64_t i = 0; i < bytes; ++i) visit(at[i], offset + i);
        }
      }
    }
  }
}

inline void RunScalar(const CopyPlan& plan) {
  for (uint32_t i = 0; i < plan.item_count; ++i) {
    std::byte* const block = plan.items[i].block;
    ForEachCopiedByte(plan, plan.items[i], [&](std::byte& paged, uint64_t at) {
      (plan.direction == CopyDirection::kGather ? block[at] : paged) =
          plan.direction == CopyDirection::kGather ? paged : block[at];
    });
  }
}

}  // namespace stem
