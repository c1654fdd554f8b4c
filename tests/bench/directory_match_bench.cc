// What one match and one applied change cost in the directory's core, by size of the index: no gRPC.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/directory/chain_match.h"
#include "services/directory/holder_stream.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

constexpr uint64_t kBatchKeys = 4096;

struct Filled {
  explicit Filled(uint64_t blocks) {
    for (int n = 0; n < 3; ++n) {
      streams.push_back(std::make_unique<HolderStream>(membership, index, absl::Seconds(2)));
      Send(n, HelloOf(absl::StrCat("n", n), 1));
      Send(n, SnapshotOf(0, space));
    }
    // Each block on two of three nodes.
    for (uint64_t first = 0; first < blocks; first += kBatchKeys) {
      for (uint64_t n = 0; n < 2; ++n) {
        const auto node = static_cast<int>((first / kBatchKeys + n) % 3);
        Send(node, BatchOf(sequence[node] + 1, space, {Adds(KeysOf(first, kBatchKeys))}));
        sequence[node] += kBatchKeys;
      }
    }
  }
  void Send(int node, const v1::AnnounceMessage& message) {
    if (!streams[static_cast<size_t>(node)]->OnMessage(message, now).ok()) std::abort();
  }

  const absl::Time now = absl::UnixEpoch();
  const NamespaceFingerprint space = SpaceOf(1);
  PrefixIndex index{PrefixIndexOptions{}};
  Membership membership{index, {.started = now}};
  std::vector<std::unique_ptr<HolderStream>> streams;
  uint64_t sequence[3] = {};
};

// range(0): blocks in the index; range(1): blocks in the chain, all held.
void BM_Match(benchmark::State& state) {
  const auto blocks = static_cast<uint64_t>(state.range(0));
  const auto chain = static_cast<uint64_t>(state.range(1));
  const Filled filled(blocks);
  uint64_t first = 0;
  for (auto _ : state) {
    state.PauseTiming();  // another chain each time, so that the cache is as cold as it will be
    first = (first * 6364136223846793005ULL + 1442695040888963407ULL);
    const MatchCall call{.space = filled.space, .keys = KeysOf(first % (blocks - chain), chain), .parts = {{.id = 0}}, .requester = ""};
    state.ResumeTiming();
    const auto view = filled.membership.View(filled.now);
    benchmark::DoNotOptimize(MatchChain(filled.index, *view, call));
  }
  state.SetItemsProcessed(state.iterations() * state.range(1));
}
BENCHMARK(BM_Match)->ArgsProduct({{1 << 16, 1 << 20, 1 << 22}, {64, 1024}});

void BM_ApplyBatch(benchmark::State& state) {
  Filled filled(1 << 20);
  uint64_t first = 1 << 20;
  for (auto _ : state) {
    state.PauseTiming();
    const v1::AnnounceMessage message = BatchOf(filled.sequence[0] + 1, filled.space, {Adds(KeysOf(first, kBatchKeys))});
    state.ResumeTiming();
    filled.Send(0, message);
    filled.sequence[0] += kBatchKeys;
    first = (1 << 20) + (first + kBatchKeys) % (1 << 20);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kBatchKeys));
}
BENCHMARK(BM_ApplyBatch);

}  // namespace
}  // namespace stem

BENCHMARK_MAIN();
