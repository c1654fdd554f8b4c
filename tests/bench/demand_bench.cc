// What an Acquire of 64 blocks pays for being remembered: the hot stems and the sampled hit curve, for chains that share a prompt and go
// on by themselves, and for chains that were never seen.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "services/node/records/hot_stems.h"
#include "storage/policy/sampled_hit_curve.h"

namespace stem {
namespace {

constexpr size_t kBlocks = 64;
constexpr size_t kShared = 24;
constexpr size_t kChains = 4096;

std::vector<std::vector<BlockKey>> Chains(size_t shared) {
  std::mt19937_64 random(1);
  const auto key = [&random] {
    BlockKey drawn;
    drawn.low = random();
    drawn.high = random();
    return drawn;
  };
  std::vector<BlockKey> system;
  for (size_t i = 0; i < shared; ++i) system.push_back(key());
  std::vector<std::vector<BlockKey>> chains(kChains, system);
  for (std::vector<BlockKey>& chain : chains) {
    while (chain.size() < kBlocks) chain.push_back(key());
  }
  return chains;
}

void HotStemsOf64Blocks(benchmark::State& state) {
  const auto chains = Chains(static_cast<size_t>(state.range(0)));
  HotStems stems((HotStems::Options()));
  absl::Time now = absl::FromUnixSeconds(1);
  size_t i = 0;
  for (auto _ : state) {
    stems.Request({}, chains[i++ % kChains], kBlocks, now);
    now += absl::Microseconds(100);
  }
}
BENCHMARK(HotStemsOf64Blocks)->Arg(0)->Arg(kShared);

void HitCurveOf64Blocks(benchmark::State& state) {
  const auto chains = Chains(kShared);
  SampledHitCurve curve({.capacity_slots = static_cast<uint64_t>(state.range(0))});
  absl::Time now = absl::FromUnixSeconds(1);
  size_t i = 0;
  for (auto _ : state) {
    curve.Request({.space = {}, .keys = chains[i++ % kChains]}, now);
    now += absl::Microseconds(100);
  }
}
BENCHMARK(HitCurveOf64Blocks)->Arg(4096)->Arg(65'536)->Arg(1 << 20);

}  // namespace
}  // namespace stem

BENCHMARK_MAIN();
