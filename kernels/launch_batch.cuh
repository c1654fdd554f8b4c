// How a plan is cut into launches whose tables fit into a kernel's arguments (32 KiB from CUDA 12.1 on): no table in
// device memory, so nothing to allocate, copy or keep alive.
#pragma once

#include "kernels/copy_plan.h"
#include "kernels/warp_hash.cuh"

namespace stem {

inline constexpr uint32_t kLayersMax = 128;
inline constexpr uint32_t kPagesMax = 4096;
inline constexpr uint32_t kItemsMax = 512;
// What fits into the 4 KiB that cost nothing extra to send along.
inline constexpr uint32_t kFewPages = 256;
inline constexpr uint32_t kFewItems = 8;

template <uint32_t kPages, uint32_t kItems>
struct Tables {
  LayerPages layers[kLayersMax];
  uint32_t pages[kPages];
  std::byte* blocks[kItems];
  uint32_t table_pages;  // of one item
};
using SmallTables = Tables<kFewPages, kFewItems>;
using LargeTables = Tables<kPagesMax, kItemsMax>;

// Some layers of some items of a plan: what one launch takes.
struct Cut {
  uint32_t layer_first, layer_count, item_first, item_count;
};

inline CopyPlan PlanOf(const CopyPlan& plan, const Cut& cut) {
  CopyPlan part = plan;
  part.layers += cut.layer_first;
  part.layer_count = cut.layer_count;
  part.items += cut.item_first;
  part.item_count = cut.item_count;
  return part;
}

// `layer_bytes`: of the block.
template <typename AnyTables>
void FillTables(AnyTables& tables, const CopyPlan& plan, const Cut& cut, uint64_t layer_bytes) {
  const CopyPlan part = PlanOf(plan, cut);
  tables.table_pages = static_cast<uint32_t>(part.table_pages());
  for (uint32_t i = 0; i < part.layer_count; ++i) tables.layers[i] = part.layers[i];
  const uint64_t skipped = plan.layer_tables ? uint64_t{cut.layer_first} * plan.page_count : 0;
  for (uint32_t i = 0; i < part.item_count; ++i) {
    tables.blocks[i] = part.items[i].block + cut.layer_first * layer_bytes;
    for (uint32_t j = 0; j < tables.table_pages; ++j) {
      tables.pages[i * tables.table_pages + j] = part.items[i].pages[skipped + j];
    }
  }
}

inline uint32_t Smaller(uint64_t a, uint64_t b) { return static_cast<uint32_t>(a < b ? a : b); }

// All of a plan in launches of at most `items_max` items: calls launch(cut, page ids in it).
template <typename Launch>
cudaError_t ForEachCut(const CopyPlan& plan, uint32_t items_max, Launch launch) {
  const uint64_t layers_max = plan.layer_tables ? Smaller(kLayersMax, kPagesMax / plan.page_count) : kLayersMax;
  for (uint32_t layer = 0; layer < plan.layer_count;) {
    const uint32_t layers = Smaller(layers_max, plan.layer_count - layer);
    const uint64_t ids = uint64_t{plan.page_count} * (plan.layer_tables ? layers : 1);
    for (uint32_t item = 0; item < plan.item_count;) {
      const uint32_t items = Smaller(Smaller(items_max, kPagesMax / ids), plan.item_count - item);
      const cudaError_t error = launch(Cut{layer, layers, item, items}, ids * items);
      if (error != cudaSuccess) return error;
      item += items;
    }
    layer += layers;
  }
  return cudaSuccess;
}

}  // namespace stem
