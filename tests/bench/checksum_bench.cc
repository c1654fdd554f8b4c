// GB/s of the payload digest and of copy-and-digest, for each instruction set, beside memcpy and a
// loop that only reads in the same run.
// Cold: the blocks go round a working set of 512 MiB; warm: the same block again.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/checksum.h"
#include "kernels/checksum_isa.h"

namespace {

using stem::checksum_internal::ChecksumIsa;

constexpr size_t kWorkingSet = 512 << 20;

// Populated once, never unmapped: every case reads the same memory.
char* Memory(int which) {
  static char* const memory[2] = {
      static_cast<char*>(mmap(nullptr, kWorkingSet, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
      static_cast<char*>(mmap(nullptr, kWorkingSet, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))};
  static const bool filled = [] {
    std::memset(memory[0], 7, kWorkingSet);
    std::memset(memory[1], 1, kWorkingSet);
    return true;
  }();
  benchmark::DoNotOptimize(filled);
  return memory[which];
}

// What a digest cannot be faster than when cold: every word read once.
void ReadAll(const char* from, size_t bytes) {
  uint64_t sums[8] = {};
  for (; bytes >= sizeof(sums); bytes -= sizeof(sums), from += sizeof(sums)) {
    uint64_t words[8];
    std::memcpy(words, from, sizeof(words));
    for (int i = 0; i < 8; ++i) sums[i] += words[i];
  }
  benchmark::DoNotOptimize(sums);
}

template <typename Work>
void Run(benchmark::State& state, Work work) {
  const auto block_bytes = static_cast<size_t>(state.range(0));
  const bool cold = state.range(1) != 0;
  std::vector<uint64_t> hashes(stem::ChunkCount(block_bytes));
  const char* const src = Memory(0);
  char* const dst = Memory(1);
  size_t at = 0;
  for (auto _ : state) {
    work(dst + at, src + at, block_bytes, hashes.data());
    benchmark::DoNotOptimize(hashes.data());
    benchmark::ClobberMemory();
    if (cold) at = at + 2 * block_bytes > kWorkingSet ? 0 : at + block_bytes;
  }
  state.SetBytesProcessed(static_cast<int64_t>(block_bytes) * state.iterations());
}

void Register(const std::string& name, void (*work)(char*, const char*, size_t, uint64_t*, const ChecksumIsa*),
              const ChecksumIsa* isa) {
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    Run(state, [=](char* dst, const char* src, size_t bytes, uint64_t* hashes) { work(dst, src, bytes, hashes, isa); });
  })->ArgsProduct({{64 << 10, 256 << 10, 2 << 20}, {1, 0}})->ArgNames({"bytes", "cold"});
}

}  // namespace

int main(int argc, char** argv) {
  Register("memcpy", [](char* dst, const char* src, size_t n, uint64_t*, const ChecksumIsa*) { memcpy(dst, src, n); },
           nullptr);
  Register("read", [](char*, const char* src, size_t n, uint64_t*, const ChecksumIsa*) { ReadAll(src, n); }, nullptr);
  const ChecksumIsa* isas[stem::checksum_internal::kIsasMax];
  const size_t count = stem::checksum_internal::AvailableIsas(isas);
  for (size_t i = 0; i < count; ++i) {
    Register(std::string("digest/") + isas[i]->name,
             [](char*, const char* src, size_t n, uint64_t* hashes, const ChecksumIsa* isa) {
               isa->hash_chunks(src, n, hashes);
             },
             isas[i]);
    Register(std::string("copy_and_digest/") + isas[i]->name,
             [](char* dst, const char* src, size_t n, uint64_t* hashes, const ChecksumIsa* isa) {
               isa->copy_chunks(dst, src, n, hashes);
             },
             isas[i]);
    Register(std::string("copy/") + isas[i]->name,
             [](char* dst, const char* src, size_t n, uint64_t*, const ChecksumIsa* isa) { isa->copy(dst, src, n); }, isas[i]);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
