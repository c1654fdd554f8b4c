#include "kernels/copy_plan.h"

#include <cstring>

namespace stem {
namespace {

void Move(std::byte* page, std::byte* block, uint64_t bytes, CopyDirection direction) {
  if (direction == CopyDirection::kGather) {
    std::memcpy(block, page, bytes);
  } else {
    std::memcpy(page, block, bytes);
  }
}

void MovePage(const CopyPlan& plan, int plane, std::byte* page, std::byte* block) {
  if (!plan.head_major) return Move(page, block, plan.page_bytes(plane), plan.direction);
  const uint64_t row_bytes = plan.row_bytes[plane];
  for (uint64_t row = 0; row < plan.page_rows; ++row) {
    for (uint64_t head = 0; head < plan.heads; ++head) {
      Move(page + (head * plan.page_rows + row) * row_bytes, block + (row * plan.heads + head) * row_bytes, row_bytes,
           plan.direction);
    }
  }
}

}  // namespace

void RunOnHost(const CopyPlan& plan) {
  std::byte* block = plan.block;
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      std::byte* const base = plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values;
      const uint64_t page_bytes = plan.page_bytes(plane);
      if (page_bytes == 0) continue;
      for (uint32_t i = 0; i < plan.page_count; ++i, block += page_bytes) {
        MovePage(plan, plane, base + plan.pages[i] * plan.page_stride_bytes, block);
      }
    }
  }
}

}  // namespace stem
