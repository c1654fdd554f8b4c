// Reads of another process's arena over TCP on loopback, 16 blocks per read, next to memcpy of as many cold bytes.
#include <benchmark/benchmark.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "absl/time/clock.h"
#include "proto/check.h"
#include "storage/transport/ucx_transport.h"
#include "tests/support/read_outcome.h"
#include "tests/support/transport_process.h"

namespace stem {
namespace {

constexpr size_t kArenaBytes = 512 << 20;  // far above the last-level cache
constexpr size_t kWindow = 16;

std::span<std::byte> MapArena() {
  void* at = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  STEM_CHECK(at != MAP_FAILED);
  return {static_cast<std::byte*>(at), kArenaBytes};
}

// Of a whole process, not only this one.
double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec used{};
  STEM_CHECK(clock_getcpuclockid(pid, &clock) == 0 && clock_gettime(clock, &used) == 0);
  return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

void Read(benchmark::State& state, ReadPath path) {
  const size_t block_bytes = static_cast<size_t>(state.range(0));
  const auto owner = TransportProcess::StartOwner(path, kArenaBytes, 1);
  STEM_CHECK(owner.ok());
  UcxTransport::Options options;
  options.ucx.read_path = path;
  const auto transport = *UcxTransport::Create(options);
  const std::span<std::byte> arena = MapArena();
  {
    const auto registration = *transport->Register(arena, MemoryPlace::kHost);
    const auto peer = *transport->Connect((*owner)->memory(), absl::InfiniteFuture());
    const pid_t owner_pid = static_cast<pid_t>((*owner)->memory().incarnation);
    const double cpu_before = CpuSeconds(getpid()) + CpuSeconds(owner_pid);
    size_t at = 0;
    for (auto _ : state) {
      std::vector<ReadOp> ops;
      for (size_t i = 0; i < kWindow; ++i, at = (at + block_bytes) % kArenaBytes) {
        ops.push_back({.arena = 0, .offset = at, .destination = arena.subspan(at, block_bytes),
                       .registration = registration.get()});
      }
      ReadOutcome outcome(kWindow);
      STEM_CHECK(transport->Read(peer, std::move(ops), absl::Now() + absl::Minutes(1), outcome.callbacks()).ok());
      STEM_CHECK(outcome.WaitSafe().ok());
    }
    const double cpu = CpuSeconds(getpid()) + CpuSeconds(owner_pid) - cpu_before;
    state.counters["cpu_s_per_GB"] =
        cpu / (static_cast<double>(state.iterations()) * static_cast<double>(kWindow * block_bytes) / 1e9);
    STEM_CHECK(IsPattern(arena.first(block_bytes), 1, 0));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kWindow * block_bytes));
  munmap(arena.data(), arena.size());
}

void Memcpy(benchmark::State& state) {
  const size_t block_bytes = static_cast<size_t>(state.range(0));
  const std::span<std::byte> from = MapArena();
  const std::span<std::byte> to = MapArena();
  size_t at = 0;
  for (auto _ : state) {
    for (size_t i = 0; i < kWindow; ++i, at = (at + block_bytes) % kArenaBytes) {
      std::memcpy(to.data() + at, from.data() + at, block_bytes);
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kWindow * block_bytes));
  munmap(from.data(), from.size());
  munmap(to.data(), to.size());
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  int exit_code = 0;
  if (stem::RunTransportProcess(argc, argv, exit_code)) return exit_code;
  const std::vector<int64_t> blocks = {64 << 10, 256 << 10, 1 << 20, 2 << 20};
  const auto add = [&blocks](const char* name, auto run) {
    auto* bench = benchmark::RegisterBenchmark(name, run)->UseRealTime();
    for (const int64_t bytes : blocks) bench->Arg(bytes);
  };
  add("memcpy_cold", stem::Memcpy);
  add("ucx_tcp_messages", [](benchmark::State& state) { stem::Read(state, stem::ReadPath::kMessages); });
  add("ucx_tcp_emulated_gets", [](benchmark::State& state) { stem::Read(state, stem::ReadPath::kGets); });
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
