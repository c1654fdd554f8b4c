// GB/s of gather and scatter on the host, and as `of_limit` the share of the machine's own copy (non-temporal, of as
// many bytes), which is measured first in the same run: the best of five passes. Cold: 512 MiB of pages and 512 MiB of
// blocks are gone round, in pages of 4 KiB or with --huge_pages of 2 MiB. A block is 32 layers x 16 tokens x 8 heads x 128 x bf16 K and V = 2 MiB; 16 of them a call.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/block_copy.h"

namespace {

using stem::PageOrder;

constexpr size_t kWorkingSet = 512 << 20;
constexpr uint32_t kLayers = 32;
constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kHeads = 8;
constexpr uint32_t kRowBytes = 256;
constexpr size_t kBatch = 16;

bool huge_pages = false;

std::byte* Memory(int which) {
  static std::byte* const memory[2] = {
      static_cast<std::byte*>(std::aligned_alloc(2 << 20, kWorkingSet)),
      static_cast<std::byte*>(std::aligned_alloc(2 << 20, kWorkingSet))};
  static const bool filled = [] {
    for (std::byte* part : memory) madvise(part, kWorkingSet, huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::memset(memory[0], 3, kWorkingSet);
    std::memset(memory[1], 5, kWorkingSet);
    return true;
  }();
  benchmark::DoNotOptimize(filled);
  return memory[which];
}

// Bytes per second of a non-temporal copy through the whole working set.
double Limit() {
  static const double limit = [] {
    double best = 0;
    for (int pass = 0; pass < 6; ++pass) {
      const auto start = std::chrono::steady_clock::now();
      stem::CopyPayload({Memory(1), kWorkingSet}, {Memory(0), kWorkingSet});
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      if (pass > 0) best = std::max(best, kWorkingSet / took.count());
    }
    return best;
  }();
  return limit;
}

struct Cold {
  explicit Cold(const stem::BlockShape& copied, uint32_t page_heads) : shape(copied) {
    const uint64_t page_bytes = uint64_t{shape.page_rows()} * page_heads * shape.key_bytes;
    const uint64_t plane_bytes = kWorkingSet / (2 * kLayers);
    for (uint32_t i = 0; i < kLayers; ++i) {
      layers.push_back({Memory(0) + 2 * i * plane_bytes, Memory(0) + (2 * i + 1) * plane_bytes});
    }
    cache = {layers, page_bytes, static_cast<uint32_t>(plane_bytes / page_bytes), page_heads};
    order.resize(cache.page_count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(1));
  }

  stem::BlockShape shape;
  std::vector<stem::LayerPages> layers;
  stem::PagedCache cache;
  std::vector<uint32_t> order;
};

enum class Work { kGather, kScatter, kGatherDigest, kScatterDigest };

struct Batch {
  std::vector<stem::BlockDestination> to;
  std::vector<stem::BlockSource> from;
  std::vector<std::vector<uint64_t>> hashes;
  std::vector<stem::BlockDigest> digests;
};

std::vector<Batch> Batches(const Cold& cold) {
  const uint64_t block_bytes = cold.shape.block_bytes();
  const size_t pages = cold.shape.page_count();
  const size_t blocks = std::min<size_t>(kWorkingSet / block_bytes, cold.order.size() / pages) / kBatch * kBatch;
  std::vector<Batch> batches(blocks / kBatch);
  for (size_t i = 0; i < blocks; ++i) {
    Batch& batch = batches[i / kBatch];
    const std::span<const uint32_t> table(&cold.order[i * pages], pages);
    const std::span<std::byte> block(Memory(1) + i * block_bytes, block_bytes);
    batch.to.push_back({table, block});
    batch.from.push_back({table, block});
    batch.hashes.emplace_back(stem::ChunkCount(block_bytes));
    batch.digests.push_back({{}, batch.hashes.back()});
  }
  return batches;
}

void Run(benchmark::State& state, const stem::BlockShape& shape, uint32_t page_heads, Work work) {
  const double limit = Limit();
  const Cold cold(shape, page_heads);
  std::vector<Batch> batches = Batches(cold);
  const uint32_t heads = shape.slice.count == 0 ? shape.heads : shape.slice.count;
  const double copied = static_cast<double>(shape.block_bytes()) / shape.heads * heads * kBatch;
  size_t turn = 0;
  for (auto _ : state) {
    Batch& batch = batches[turn++ % batches.size()];
    absl::Status status;
    if (work == Work::kGather) status = stem::Gather(shape, cold.cache, batch.to);
    if (work == Work::kScatter) status = stem::Scatter(shape, cold.cache, batch.from);
    if (work == Work::kGatherDigest) status = stem::GatherAndDigest(shape, cold.cache, batch.to, batch.digests);
    if (work == Work::kScatterDigest) status = stem::ScatterAndDigest(shape, cold.cache, batch.from, batch.digests);
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
    benchmark::ClobberMemory();
  }
  const double bytes = copied * static_cast<double>(state.iterations());
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  state.counters["of_limit"] = benchmark::Counter(bytes / limit, benchmark::Counter::kIsRate);
  state.counters["limit_GBps"] = limit / 1e9;
}

void Register(const std::string& name, const stem::BlockShape& shape, uint32_t page_heads, bool digests) {
  const auto add = [&](const char* verb, Work work) {
    benchmark::RegisterBenchmark((std::string(verb) + "/" + name).c_str(), [=](benchmark::State& state) {
      Run(state, shape, page_heads, work);
    })->UseRealTime();
  };
  add("gather", Work::kGather);
  add("scatter", Work::kScatter);
  if (!digests) return;
  add("gather_digest", Work::kGatherDigest);
  add("scatter_digest", Work::kScatterDigest);
}

}  // namespace

int main(int argc, char** argv) {
  const auto shape = [](PageOrder order, uint32_t page_tokens, uint32_t heads = kHeads, stem::HeadSlice slice = {}) {
    return stem::BlockShape{order, kBlockTokens, page_tokens, heads, kRowBytes, kRowBytes, 0, kLayers, slice};
  };
  Register("nhd_16", shape(PageOrder::kNhd, 16), kHeads, true);
  Register("nhd_1", shape(PageOrder::kNhd, 1), kHeads, true);
  Register("hnd_16", shape(PageOrder::kHnd, 16), kHeads, true);
  Register("opaque", {PageOrder::kOpaque, kBlockTokens, 16, kHeads, 16 * kRowBytes, 16 * kRowBytes, 0, kLayers}, kHeads,
           true);
  // Two ranks' parts of 4 heads make up 8; a rank of 2 heads takes them from a part of 8.
  Register("nhd_4_of_8_in_page", shape(PageOrder::kNhd, 16, 4, {.page_first = 4, .count = 4}), 8, false);
  Register("nhd_2_of_8_in_block", shape(PageOrder::kNhd, 16, 8, {.block_first = 2, .count = 2}), 2, false);
  if (argc > 1 && std::strcmp(argv[1], "--huge_pages") == 0) {
    huge_pages = true;
    argv[1] = argv[0];
    ++argv, --argc;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
