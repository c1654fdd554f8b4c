// What traces cost: an Acquire of 64 local blocks and its Release at a real node, without a collector, and with 1 % and all of them sampled and
// taken by a collector on this machine. --benchmark_enable_random_interleaving=true --benchmark_repetitions=9 compares like with like.
#include <benchmark/benchmark.h>

#include <memory>

#include "proto/check.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"
#include "tests/support/span_receiver.h"

namespace stem {
namespace {

constexpr uint32_t kBlocks = 64;

// `percent`: of traces that are sampled; below 0: no collector.
void BM_AcquireTraced(benchmark::State& state) {
  const auto percent = static_cast<double>(state.range(0));
  SpanReceiver receiver;
  const TracingOptions tracing =
      percent < 0 ? TracingOptions() : TracingOptions{.otlp = receiver.url(), .sample = percent / 100, .slow = absl::ZeroDuration()};
  InProcessCluster cluster({.nodes = 1, .tracing = tracing});
  const auto client = cluster.Connect(0, TestSpec(65536), kBlocks * 65536);
  const std::vector<BlockKey> keys = testing::ChainOf(*client, kBlocks);
  STEM_CHECK(testing::Publish(*client, keys, testing::FillWithPosition) == kBlocks);
  for (auto _ : state) STEM_CHECK(client->Acquire(keys, {.request = "bench"}, testing::Soon())->matched_blocks() == kBlocks);
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK(BM_AcquireTraced)->Arg(-1)->Arg(1)->Arg(100)->UseRealTime();

}  // namespace
}  // namespace stem

BENCHMARK_MAIN();
