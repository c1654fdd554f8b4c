// GB/s of quantizing gather and dequantizing scatter on the host, counted in bytes of the engine's pages, and as
// `of_gather` the share of what an exact gather of the same pages reaches, measured first in the same run.
// A block is 8 layers x 16 tokens x 8 heads x 128 x bf16 K and V = 512 KiB, 16 a call; cold, 256 MiB of pages.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/quantize.h"

namespace {

constexpr size_t kPagesBytes = 256 << 20;
constexpr uint32_t kLayers = 8;
constexpr size_t kBatch = 16;
constexpr stem::BlockShape kShape = {stem::PageOrder::kNhd, 16, 16, 8, 256, 256, 0, kLayers};

struct Cache {
  Cache() : memory(kPagesBytes / 2), blocks(kPagesBytes) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 1);
    for (size_t i = 0; i < 65536; ++i) memory[i] = stem::quant::ToBf16(normal(random));
    for (size_t i = 65536; i < memory.size(); ++i) memory[i] = memory[i - 65536];
    auto* const bytes = reinterpret_cast<std::byte*>(memory.data());
    const uint64_t plane = kPagesBytes / (2 * kLayers);
    for (uint32_t i = 0; i < kLayers; ++i) layers.push_back({bytes + 2 * i * plane, bytes + (2 * i + 1) * plane});
    cache = {layers, 32768, static_cast<uint32_t>(plane / 32768)};
    order.resize(cache.page_count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
  }

  // Batch `turn` of blocks of `block_bytes`.
  template <typename Block>
  std::vector<Block> Batch(size_t turn, uint64_t block_bytes) {
    std::vector<Block> batch;
    for (size_t i = 0; i < kBatch; ++i) {
      const size_t at = (turn * kBatch + i) % order.size();
      batch.push_back({std::span<const uint32_t>(&order[at], 1), {&blocks[at * block_bytes], block_bytes}});
    }
    return batch;
  }

  std::vector<uint16_t> memory;
  std::vector<std::byte> blocks;
  std::vector<stem::LayerPages> layers;
  stem::PagedCache cache;
  std::vector<uint32_t> order;
};

Cache& Shared() {
  static Cache cache;
  return cache;
}

double ExactRate() {
  Cache& c = Shared();
  double best = 0;
  for (int pass = 0; pass < 4; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    for (size_t turn = 0; turn < c.order.size() / kBatch; ++turn) {
      const auto batch = c.Batch<stem::BlockDestination>(turn, kShape.block_bytes());
      if (!stem::Gather(kShape, c.cache, batch).ok()) std::abort();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (pass > 0) best = std::max(best, kPagesBytes / took.count());
  }
  return best;
}

void Run(benchmark::State& state, const stem::Quantization& quantization, bool gather) {
  static const double exact = ExactRate();
  Cache& c = Shared();
  const uint64_t bytes = stem::QuantizedBytes(kShape, quantization);
  for (size_t turn = 0; !gather && turn < c.order.size() / kBatch; ++turn) {
    const auto batch = c.Batch<stem::BlockDestination>(turn, bytes);
    if (!stem::GatherQuantized(kShape, c.cache, quantization, batch).ok()) return state.SkipWithError("refused");
  }
  size_t turn = 0;
  for (auto _ : state) {
    absl::Status status;
    if (gather) status = stem::GatherQuantized(kShape, c.cache, quantization, c.Batch<stem::BlockDestination>(turn, bytes));
    if (!gather) status = stem::ScatterQuantized(kShape, c.cache, quantization, c.Batch<stem::BlockSource>(turn, bytes));
    if (!status.ok()) return state.SkipWithError(std::string(status.message()).c_str());
    ++turn;
    benchmark::ClobberMemory();
  }
  const double done = static_cast<double>(state.iterations()) * kBatch * static_cast<double>(kShape.block_bytes());
  state.SetBytesProcessed(static_cast<int64_t>(done));
  state.counters["of_gather"] = benchmark::Counter(done / exact, benchmark::Counter::kIsRate);
  state.counters["gather_GBps"] = exact / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
  const char* const codecs[] = {"e4m3", "e5m2", "int8", "int4"};
  for (const bool gather : {true, false}) {
    for (const auto axis : {stem::ScaleAxis::kToken, stem::ScaleAxis::kChannel}) {
      for (int codec = 0; codec < 4; ++codec) {
        const stem::Quantization q = {stem::quant::Element::kBf16, static_cast<stem::quant::Codec>(codec), axis};
        const std::string name = std::string(gather ? "quantize/" : "dequantize/") + codecs[codec] +
                                 (axis == stem::ScaleAxis::kToken ? "/token" : "/channel");
        benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { Run(state, q, gather); })->UseRealTime();
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
