// The client's own cost, against a node that answers at once: chain hashing, an Acquire and its Release, a Load out of
// shared memory with each proof. memcpy of the same working set is the limit of Load.
#include <benchmark/benchmark.h>

#include <cstring>
#include <numeric>
#include <vector>

#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "proto/check.h"
#include "tests/support/fake_node.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr uint64_t kWorkingSetBytes = 256ULL << 20;  // far above the last-level cache

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

void BM_ChainKeys(benchmark::State& state, HashScheme scheme) {
  ChainHasher hasher = *ChainHasher::Create(scheme, Root{1}, "", 16);
  std::vector<uint32_t> tokens(1 << 16);
  std::iota(tokens.begin(), tokens.end(), 0u);
  for (auto _ : state) benchmark::DoNotOptimize(hasher.HashPrompt("", tokens, {}));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * (tokens.size() / 16)));
}
BENCHMARK_CAPTURE(BM_ChainKeys, xxh3, HashScheme::kXxh3);
BENCHMARK_CAPTURE(BM_ChainKeys, sha256, HashScheme::kSha256);

// A client beside a fake node that holds `blocks` blocks of one chain.
struct Bench {
  Bench(uint64_t block_bytes, uint32_t blocks, LocalProof proof)
      : spec(testing::SmallSpec(block_bytes)), node(directory.path(), {.spec = spec, .slots = blocks}) {
    client =
        *CacheClient::Connect({.node = node.target(), .space = spec, .staging_bytes = 0, .local_proof = proof}, Soon());
    std::vector<uint32_t> tokens(size_t{blocks} * spec.block_tokens);
    keys = *client->NewHasher()->HashPrompt("", tokens, {});
    const std::vector<std::byte> payload(block_bytes, std::byte{7});
    for (const BlockKey& key : keys) node.Hold(key, payload);
  }

  TempDirectory directory;
  NamespaceSpec spec;
  testing::FakeNode node;
  std::unique_ptr<CacheClient> client;
  std::vector<BlockKey> keys;
};

void BM_AcquireRelease(benchmark::State& state) {
  Bench bench(4096, static_cast<uint32_t>(state.range(0)), LocalProof::kFull);
  for (auto _ : state) STEM_CHECK(bench.client->Acquire(bench.keys, {}, Soon())->matched_blocks() == bench.keys.size());
}
BENCHMARK(BM_AcquireRelease)->Arg(1)->Arg(64)->UseRealTime();

void BM_Load(benchmark::State& state, LocalProof proof) {
  const auto block_bytes = static_cast<uint64_t>(state.range(0));
  const auto blocks = static_cast<uint32_t>(kWorkingSetBytes / block_bytes);
  Bench bench(block_bytes, blocks, proof);
  const Stem stem = *bench.client->Acquire(bench.keys, {}, Soon());
  std::vector<std::byte> memory(kWorkingSetBytes);
  std::vector<std::span<std::byte>> pages;
  for (uint32_t i = 0; i < blocks; ++i) pages.push_back(std::span(memory).subspan(i * block_bytes, block_bytes));
  STEM_CHECK(bench.client->Load(stem, 0, pages, Soon()).blocks_loaded == blocks);  // the first touch of every page
  for (auto _ : state) STEM_CHECK(bench.client->Load(stem, 0, pages, Soon()).blocks_loaded == blocks);
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kWorkingSetBytes));
}
BENCHMARK_CAPTURE(BM_Load, full, LocalProof::kFull)->Arg(64 << 10)->Arg(2 << 20)->UseRealTime();
BENCHMARK_CAPTURE(BM_Load, header, LocalProof::kHeader)->Arg(64 << 10)->Arg(2 << 20)->UseRealTime();

void BM_Memcpy(benchmark::State& state) {
  const std::vector<std::byte> source(kWorkingSetBytes, std::byte{7});
  std::vector<std::byte> destination(kWorkingSetBytes);
  std::memcpy(destination.data(), source.data(), source.size());
  for (auto _ : state) std::memcpy(destination.data(), source.data(), source.size());
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kWorkingSetBytes));
}
BENCHMARK(BM_Memcpy)->UseRealTime();

}  // namespace
}  // namespace stem

BENCHMARK_MAIN();
