// What the spill store reaches on this disk, beside what the disk itself reaches in the same run.
//   spill_bench [DIRECTORY]      default: the working directory; 3 GiB of it are used and given back
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "kernels/checksum.h"
#include "proto/check.h"
#include "storage/spill/rocks_spill_store.h"

namespace stem {
namespace {

constexpr size_t kBatchBytes = 16 << 20;
constexpr size_t kBatches = 64;  // 1 GiB a run
constexpr size_t kReads = 2048;

std::string& Directory() {
  static std::string directory = ".";
  return directory;
}

// Page-aligned, like slots.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)), bytes) {
    STEM_CHECK(bytes_.data() != nullptr);
    std::mt19937_64 random(1);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(bytes_.data() + at, &word, sizeof(word));
    }
  }
  ~Memory() { std::free(bytes_.data()); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

void CountBytes(benchmark::State& state, size_t bytes_each) {
  const double gigabytes = static_cast<double>(bytes_each) * static_cast<double>(state.iterations()) / 1e9;
  state.counters["GB/s"] = benchmark::Counter(gigabytes, benchmark::Counter::kIsRate);
}

// The limit of Put: one sequential O_DIRECT writer, flushed after every batch.
void DiskWrite(benchmark::State& state) {
  const std::string path = Directory() + "/spill_bench.raw";
  const int fd = open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_DIRECT | O_CLOEXEC, 0600);
  STEM_CHECK(fd >= 0);
  const Memory memory(kBatchBytes);
  constexpr size_t kWriteBytes = 2 << 20;
  for (auto _ : state) {
    for (size_t at = 0; at < kBatchBytes; at += kWriteBytes) {
      STEM_CHECK(write(fd, memory.bytes().data() + at, kWriteBytes) == ssize_t{kWriteBytes});
    }
    STEM_CHECK(fdatasync(fd) == 0);
  }
  close(fd);
  CountBytes(state, kBatchBytes);
}

// The limit of Get: random O_DIRECT reads of one block, depth 1 a thread. Reads what DiskWrite left.
void DiskRead(benchmark::State& state) {
  const auto block_bytes = static_cast<size_t>(state.range(0));
  const int fd = open((Directory() + "/spill_bench.raw").c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
  STEM_CHECK(fd >= 0);
  const Memory memory(block_bytes);
  std::mt19937_64 random(static_cast<uint64_t>(state.thread_index()));
  const size_t blocks = kBatches * kBatchBytes / block_bytes;
  for (auto _ : state) {
    const auto at = static_cast<off_t>(random() % blocks * block_bytes);
    STEM_CHECK(pread(fd, memory.bytes().data(), block_bytes, at) == static_cast<ssize_t>(block_bytes));
  }
  close(fd);
  CountBytes(state, block_bytes);
}

BlockName NameOf(uint64_t number) {
  std::mt19937_64 random(number);
  BlockName name;
  name.space.low = 1;
  name.key.low = random();
  name.key.high = random();
  return name;
}

// A store of kBatches batches of one block size, filled by the writes of one benchmark run.
class Store {
 public:
  explicit Store(size_t block_bytes)
      : block_bytes_(block_bytes), memory_(kBatchBytes), path_(Directory() + "/spill_bench") {
    std::filesystem::remove_all(path_);
    auto store = RocksSpillStore::Open({.directory = path_});
    if (!store.ok()) std::fprintf(stderr, "%s\n", std::string(store.status().message()).c_str());
    STEM_CHECK(store.ok());
    store_ = *std::move(store);
    hashes_.resize(ChunkCount(block_bytes));
  }
  ~Store() {
    store_.reset();
    std::filesystem::remove_all(path_);
  }

  void PutBatch(size_t batch) {
    const size_t blocks = kBatchBytes / block_bytes_;
    std::vector<SpillWrite> writes(blocks);
    for (size_t i = 0; i < blocks; ++i) {
      writes[i].meta.name = NameOf(batch * blocks + i);
      writes[i].meta.length = block_bytes_;
      writes[i].payload = memory_.bytes().subspan(i * block_bytes_, block_bytes_);
      writes[i].chunk_hashes = hashes_;
    }
    STEM_CHECK(store_->Put(writes).ok());
  }

  SpillStore& store() { return *store_; }

 private:
  const size_t block_bytes_;
  const Memory memory_;
  const std::string path_;
  std::vector<uint64_t> hashes_;
  std::unique_ptr<RocksSpillStore> store_;
};

void Put(benchmark::State& state) {
  Store store(static_cast<size_t>(state.range(0)));
  size_t batch = 0;
  for (auto _ : state) store.PutBatch(batch++);
  CountBytes(state, kBatchBytes);
  const SpillStats stats = store.store().stats();
  state.counters["write_amplification"] =
      static_cast<double>(stats.disk_write_bytes) / static_cast<double>(stats.write_bytes);
}

std::unique_ptr<Store>& FilledStore() {
  static std::unique_ptr<Store> store;
  return store;
}

void FillStore(const benchmark::State& state) {
  if (FilledStore() != nullptr) return;
  FilledStore() = std::make_unique<Store>(static_cast<size_t>(state.range(0)));
  for (size_t batch = 0; batch < kBatches; ++batch) FilledStore()->PutBatch(batch);
}

void DropStore(const benchmark::State&) { FilledStore().reset(); }

void Get(benchmark::State& state) {
  const auto block_bytes = static_cast<size_t>(state.range(0));
  const Memory memory(block_bytes);
  std::vector<uint64_t> hashes(ChunkCount(block_bytes));
  std::mt19937_64 random(static_cast<uint64_t>(state.thread_index()));
  const size_t blocks = kBatches * kBatchBytes / block_bytes;
  for (auto _ : state) {
    SpillRead read{
        .name = NameOf(random() % blocks), .payload = memory.bytes(), .chunk_hashes = hashes, .meta = {}, .status = {}};
    FilledStore()->store().Get(std::span(&read, 1));
    STEM_CHECK(read.status.ok());
  }
  CountBytes(state, block_bytes);
}

BENCHMARK(DiskWrite)->Iterations(kBatches)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(DiskRead)->Arg(64 << 10)->Arg(2 << 20)->Iterations(kReads / 2)->Threads(1)->Threads(2)->UseRealTime()->Unit(
    benchmark::kMicrosecond);
BENCHMARK(Put)->Arg(64 << 10)->Arg(2 << 20)->Iterations(kBatches)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Get)->Arg(64 << 10)->Arg(2 << 20)->Iterations(kReads / 2)->Threads(1)->Threads(2)->UseRealTime()->Unit(
    benchmark::kMicrosecond)->Setup(FillStore)->Teardown(DropStore);

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc > 2) {
    std::fprintf(stderr, "spill_bench: \"%s\" is one argument too many; give one directory\n", argv[2]);
    return 2;
  }
  if (argc == 2) stem::Directory() = argv[1];
  benchmark::RunSpecifiedBenchmarks();
  std::filesystem::remove(stem::Directory() + "/spill_bench.raw");
  return 0;
}
