// GB/s of Gather and Scatter on the host beside memcpy of as many bytes in the same run. Cold: 512 MiB of pages and
// 512 MiB of blocks are gone round; a block is 32 layers x 16 tokens x 8 heads x 128 x bf16 K and V = 2 MiB.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/block_copy.h"

namespace {

using stem::PageOrder;

constexpr size_t kWorkingSet = 512 << 20;
constexpr uint32_t kLayers = 32;
constexpr uint32_t kBlockTokens = 16;

struct Cold {
  explicit Cold(const stem::BlockShape& copied)
      : shape(copied), pages(new std::byte[kWorkingSet]), blocks(new std::byte[kWorkingSet]) {
    std::memset(pages.get(), 3, kWorkingSet);
    std::memset(blocks.get(), 5, kWorkingSet);
    const uint64_t page_bytes = uint64_t{shape.page_tokens} * shape.heads * shape.key_bytes;
    const uint64_t plane_bytes = kWorkingSet / (2 * kLayers);
    for (uint32_t i = 0; i < kLayers; ++i) {
      layers.push_back({pages.get() + 2 * i * plane_bytes, pages.get() + (2 * i + 1) * plane_bytes});
    }
    cache = {layers, page_bytes, static_cast<uint32_t>(plane_bytes / page_bytes)};
    order.resize(cache.page_count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
  }

  stem::BlockShape shape;
  std::unique_ptr<std::byte[]> pages;
  std::unique_ptr<std::byte[]> blocks;
  std::vector<stem::LayerPages> layers;
  stem::PagedCache cache;
  std::vector<uint32_t> order;
};

stem::BlockShape ShapeFor(PageOrder order, uint32_t page_tokens) {
  return {order, kBlockTokens, page_tokens, 8, 256, 256, 0, kLayers};
}

enum class Work { kGather, kScatter, kMemcpy };

void Copy(benchmark::State& state, PageOrder order, Work work) {
  const Cold cold(ShapeFor(order, static_cast<uint32_t>(state.range(0))));
  const uint64_t block_bytes = cold.shape.block_bytes();
  const size_t blocks = kWorkingSet / block_bytes;
  const size_t pages = cold.shape.page_count();
  size_t turn = 0;
  for (auto _ : state) {
    const size_t at = turn++ % blocks;
    const std::span<const uint32_t> table(&cold.order[at * pages], pages);
    const std::span<std::byte> block(cold.blocks.get() + at * block_bytes, block_bytes);
    absl::Status status;
    if (work == Work::kGather) status = stem::Gather(cold.shape, cold.cache, table, block);
    if (work == Work::kScatter) status = stem::Scatter(cold.shape, cold.cache, table, block);
    if (work == Work::kMemcpy) std::memcpy(block.data(), cold.pages.get() + at * block_bytes, block_bytes);
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(block_bytes) * state.iterations());
}

BENCHMARK_CAPTURE(Copy, memcpy, PageOrder::kNhd, Work::kMemcpy)->Arg(16);
BENCHMARK_CAPTURE(Copy, gather_nhd, PageOrder::kNhd, Work::kGather)->Arg(16)->Arg(1);
BENCHMARK_CAPTURE(Copy, scatter_nhd, PageOrder::kNhd, Work::kScatter)->Arg(16)->Arg(1);
BENCHMARK_CAPTURE(Copy, gather_hnd, PageOrder::kHnd, Work::kGather)->Arg(16);
BENCHMARK_CAPTURE(Copy, scatter_hnd, PageOrder::kHnd, Work::kScatter)->Arg(16);

}  // namespace

BENCHMARK_MAIN();
