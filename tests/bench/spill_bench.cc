// What the spill store reaches on this disk, as a share of what fio reaches with O_DIRECT at the same size and depth on the
// same file system in the same run: medians of alternating rounds. Without fio (a Debian package) the ratios are missing.
//   spill_bench compare [DIRECTORY] [ROUNDS] [KIB...]  read and write, 64 KiB to 4 MiB; 3 GiB are used and given back
//   spill_bench churn [DIRECTORY] [SECONDS]            put and remove at random beside a reader: write amplification, stalls
//   spill_bench restart [DIRECTORY] [RECORDS]          how long RECORDS small records take to come back, at 4 KiB each
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"
#include "nlohmann/json.hpp"
#include "proto/check.h"
#include "storage/spill/disk_spill_store.h"

namespace stem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBatchBytes = 16 << 20;  // what the node's spiller puts at a time
constexpr size_t kBatches = 64;           // 1 GiB
constexpr double kSecondsEach = 0.3;
constexpr size_t kDepth = 16;
constexpr auto kPause = std::chrono::milliseconds(100);

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const auto at = values.begin() + static_cast<ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Page-aligned and in huge pages where the system has some, like slots.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(static_cast<std::byte*>(std::aligned_alloc(2 << 20, bytes)), bytes) {
    STEM_CHECK(bytes_.data() != nullptr);
    madvise(bytes_.data(), bytes, MADV_HUGEPAGE);
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

BlockName NameOf(uint64_t number) {
  BlockName name;
  name.space.low = 1;
  name.key.low = (number + 1) * 0x9E3779B97F4A7C15ULL;
  name.key.high = (name.key.low ^ name.key.low >> 29) * 0xBF58476D1CE4E5B9ULL;
  return name;
}

// Bytes that the disk under `path` was asked to write so far, by anyone; 0 where the kernel does not tell.
uint64_t DeviceWriteBytes(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return 0;
  std::ifstream file(absl::StrCat("/sys/dev/block/", major(info.st_dev), ":", minor(info.st_dev), "/stat"));
  uint64_t field = 0;
  for (int i = 0; i < 7 && file >> field; ++i) continue;  // the seventh: sectors written
  return file ? field * 512 : 0;
}

// A store that holds kBatches batches of one block size.
class Store {
 public:
  Store(const std::string& directory, size_t block_bytes)
      : block_bytes_(block_bytes), memory_(kBatchBytes), path_(directory + "/spill_bench") {
    std::filesystem::remove_all(path_);
    auto store = DiskSpillStore::Open({.directory = path_});
    if (!store.ok()) std::fprintf(stderr, "spill_bench: %s\n", std::string(store.status().message()).c_str());
    STEM_CHECK(store.ok());
    store_ = *std::move(store);
    hashes_.resize(ChunkCount(block_bytes) * blocks_each());
    for (size_t i = 0; i < blocks_each(); ++i) Digest(NameOf(0), payload(i), chunk_hashes(i));
  }
  ~Store() {
    store_.reset();
    std::filesystem::remove_all(path_);
  }

  size_t blocks_each() const { return kBatchBytes / block_bytes_; }
  size_t blocks_held() const { return kBatches * blocks_each(); }

  // Replaces the oldest batch by a new one, as a node under its quota does; returns the seconds of the Put.
  double PutBatch() {
    if (next_batch_ >= kBatches) {
      std::vector<SpillRecordId> oldest;
      for (size_t i = 0; i < blocks_each(); ++i) oldest.push_back({.name = NameOf((next_batch_ - kBatches) * blocks_each() + i)});
      STEM_CHECK(store_->Remove(oldest).ok());
    }
    std::vector<SpillWrite> writes(blocks_each());
    for (size_t i = 0; i < blocks_each(); ++i) {
      writes[i].meta.name = NameOf(next_batch_ * blocks_each() + i);
      writes[i].meta.length = block_bytes_;
      writes[i].meta.digest = DigestOfChunks(writes[i].meta.name, block_bytes_, chunk_hashes(i));
      writes[i].payload = payload(i);
    }
    ++next_batch_;
    const auto start = Clock::now();
    STEM_CHECK(store_->Put(writes).ok());
    return SecondsSince(start);
  }

  // GB/s of putting for a while.
  double PutRate() {
    double seconds = 0;
    size_t batches = 0;
    while (seconds < kSecondsEach) {
      seconds += PutBatch();
      ++batches;
    }
    return static_cast<double>(batches * kBatchBytes) / seconds / 1e9;
  }

  // GB/s of reading blocks that are held, `depth` at a time; `run` neighbours at a time (1: each at random).
  double GetRate(size_t depth, size_t run) {
    const size_t count = depth == 1 ? run : std::max(4 * depth, run);
    const Memory memory(count * block_bytes_);
    std::vector<uint64_t> hashes(count * ChunkCount(block_bytes_));
    std::vector<SpillRead> reads(count);
    uint64_t bytes = 0;
    const auto start = Clock::now();
    while (SecondsSince(start) < kSecondsEach) {
      for (size_t i = 0; i < count; i += run) {
        const uint64_t first = (next_batch_ - kBatches) * blocks_each() + random_() % (blocks_held() / run) * run;
        for (size_t j = i; j < i + run; ++j) {
          reads[j] = {.name = NameOf(first + j - i),
                      .payload = memory.bytes().subspan(j * block_bytes_, block_bytes_),
                      .chunk_hashes = std::span(hashes).subspan(j * ChunkCount(block_bytes_), ChunkCount(block_bytes_)),
                      .meta = {},
                      .status = {}};
        }
      }
      store_->Get(reads);
      for (const SpillRead& read : reads) STEM_CHECK(read.status.ok());
      bytes += count * block_bytes_;
    }
    return static_cast<double>(bytes) / SecondsSince(start) / 1e9;
  }

  DiskSpillStore& store() { return *store_; }

 private:
  std::span<std::byte> payload(size_t i) const { return memory_.bytes().subspan(i * block_bytes_, block_bytes_); }
  std::span<uint64_t> chunk_hashes(size_t i) {
    return std::span(hashes_).subspan(i * ChunkCount(block_bytes_), ChunkCount(block_bytes_));
  }

  const size_t block_bytes_;
  const Memory memory_;
  const std::string path_;
  size_t next_batch_ = 0;
  std::mt19937_64 random_{7};
  std::vector<uint64_t> hashes_;
  std::unique_ptr<DiskSpillStore> store_;
};

// fio on a file of its own in `directory`, as large as the store's content, laid out before it is measured.
class Fio {
 public:
  explicit Fio(const std::string& directory) : path_(directory + "/spill_bench.fio") {
    present_ = std::system("fio --version >/dev/null 2>&1") == 0;
    if (present_) Run("write", 4 << 20, 1, absl::StrCat("--size=", kBatches * kBatchBytes));
  }
  ~Fio() { std::filesystem::remove(path_); }

  bool present() const { return present_; }

  // GB/s; 0 without fio.
  double Rate(const char* what, size_t block_bytes, size_t depth) const {
    if (!present_) return 0;
    return Run(what, block_bytes, depth,
               absl::StrCat("--size=", kBatches * kBatchBytes, " --time_based --runtime=", kSecondsEach * 1000, "ms"));
  }

 private:
  double Run(const char* what, size_t block_bytes, size_t depth, const std::string& more) const {
    const std::string command =
        absl::StrCat("fio --name=bench --filename='", path_, "' --rw=", what, " --bs=", block_bytes,
                     " --direct=1 --ioengine=", depth == 1 ? "psync" : "libaio", " --iodepth=", depth, " ", more,
                     " --output-format=json");
    FILE* const pipe = popen(command.c_str(), "r");
    STEM_CHECK(pipe != nullptr);
    std::string text;
    char piece[4096];
    while (const size_t bytes = fread(piece, 1, sizeof(piece), pipe)) text.append(piece, bytes);
    STEM_CHECK(pclose(pipe) == 0);
    const auto job = nlohmann::json::parse(text).at("jobs").at(0);
    return (job.at("read").at("bw_bytes").get<double>() + job.at("write").at("bw_bytes").get<double>()) / 1e9;
  }

  const std::string path_;
  bool present_ = false;
};

// One line of the table: medians, and how far they went.
void PrintLine(const char* label, const std::vector<double>& ours, const std::vector<double>& fio) {
  const double our_rate = Quantile(ours, 0.5);
  const double fio_rate = Quantile(fio, 0.5);
  std::printf("  %-36s %5.2f  fio %5.2f  ratio %5.2f  (ours %.2f to %.2f, fio %.2f to %.2f)\n", label, our_rate, fio_rate,
              fio_rate > 0 ? our_rate / fio_rate : 0, Quantile(ours, 0), Quantile(ours, 1), Quantile(fio, 0),
              Quantile(fio, 1));
}

void CompareSize(const std::string& directory, const Fio& fio, size_t block_bytes, int rounds) {
  Store store(directory, block_bytes);
  for (size_t i = 0; i < kBatches; ++i) store.PutBatch();
  std::vector<double> put, get_one, get_deep, get_stem, write_one, write_deep, read_one, read_deep;
  // Virtual disks give a burst for free and hold back whoever comes after it: each measure starts after a pause.
  const auto measure = [](std::vector<double>& rates, const std::function<double()>& rate) {
    std::this_thread::sleep_for(kPause);
    rates.push_back(rate());
  };
  for (int round = 0; round < rounds; ++round) {
    measure(write_one, [&] { return fio.Rate("write", block_bytes, 1); });
    measure(put, [&] { return store.PutRate(); });
    measure(write_deep, [&] { return fio.Rate("write", block_bytes, kDepth); });
    measure(read_one, [&] { return fio.Rate("randread", block_bytes, 1); });
    measure(get_one, [&] { return store.GetRate(1, 1); });
    measure(get_deep, [&] { return store.GetRate(kDepth, 1); });
    measure(read_deep, [&] { return fio.Rate("randread", block_bytes, kDepth); });
    measure(get_stem, [&] { return store.GetRate(1, std::min<size_t>(16, store.blocks_each())); });
  }
  std::printf("%zu KiB\n", block_bytes >> 10);
  PrintLine("put, against writes at depth 1", put, write_one);
  PrintLine("put, against writes at depth 16", put, write_deep);
  PrintLine("get at random, depth 1", get_one, read_one);
  PrintLine("get at random, depth 16", get_deep, read_deep);
  PrintLine("get of 16 neighbours, against depth 1", get_stem, read_one);
  const SpillStats stats = store.store().stats();
  std::printf("  write amplification %.3f\n",
              static_cast<double>(stats.disk_write_bytes) / static_cast<double>(stats.write_bytes));
  std::fflush(stdout);
}

void Compare(const std::string& directory, int rounds, const std::vector<size_t>& sizes) {
  const Fio fio(directory);
  if (!fio.present()) std::printf("fio is not installed (apt install fio): ours alone\n");
  std::printf("GB/s of 10^9, medians of %d alternating rounds of %.1f s; batches of %zu MiB\n", rounds, kSecondsEach,
              kBatchBytes >> 20);
  for (const size_t block_bytes : sizes) CompareSize(directory, fio, block_bytes, rounds);
}

void PrintTimes(const char* label, const std::vector<double>& seconds) {
  std::printf("  %-28s %7zu   p50 %7.2f ms   p99 %7.2f ms   max %7.2f ms\n", label, seconds.size(),
              Quantile(seconds, 0.5) * 1e3, Quantile(seconds, 0.99) * 1e3, Quantile(seconds, 1) * 1e3);
}

// 16,384 blocks of 64 KiB in a file with room for a twentieth more; random ones make way for new ones.
void Churn(const std::string& directory, double seconds) {
  constexpr size_t kBlockBytes = 64 << 10;
  constexpr size_t kHeld = 16384;
  constexpr size_t kEach = kBatchBytes / kBlockBytes;
  const std::string path = directory + "/spill_bench";
  std::filesystem::remove_all(path);
  auto store = DiskSpillStore::Open({.directory = path, .file_bytes_max = kHeld * kBlockBytes / 20 * 21});
  STEM_CHECK(store.ok());
  const Memory memory(kBatchBytes);
  std::vector<uint64_t> hashes(ChunkCount(kBlockBytes));
  std::vector<std::atomic<uint64_t>> held(kHeld);
  uint64_t next = 0;
  const auto put = [&](std::span<const size_t> places) {
    std::vector<SpillRecordId> gone;
    std::vector<SpillWrite> writes(places.size());
    for (size_t i = 0; i < places.size(); ++i) {
      if (next >= kHeld) gone.push_back({.name = NameOf(held[places[i]].load())});
      writes[i].payload = memory.bytes().subspan(i * kBlockBytes, kBlockBytes);
      writes[i].meta.name = NameOf(next + i);
      writes[i].meta.length = kBlockBytes;
      writes[i].meta.digest = Digest(writes[i].meta.name, writes[i].payload, hashes);
    }
    const auto start = Clock::now();
    STEM_CHECK((*store)->Remove(gone).ok() && (*store)->Put(writes).ok());
    const double took = SecondsSince(start);
    for (const size_t place : places) held[place].store(next++);
    return took;
  };
  std::vector<size_t> places(kHeld);
  for (size_t i = 0; i < kHeld; ++i) places[i] = i;
  for (size_t first = 0; first < kHeld; first += kEach) put(std::span(places).subspan(first, kEach));

  std::atomic<bool> done{false};
  const auto read = [&](std::vector<double>& times) {
    const Memory into(kBlockBytes);
    std::vector<uint64_t> read_hashes(ChunkCount(kBlockBytes));
    std::mt19937_64 random(3);
    while (!done) {
      SpillRead one{.name = NameOf(held[random() % kHeld].load()), .payload = into.bytes(), .chunk_hashes = read_hashes,
                    .meta = {}, .status = {}};
      const auto start = Clock::now();
      (*store)->Get(std::span(&one, 1));
      times.push_back(SecondsSince(start));
      STEM_CHECK(one.status.ok() || absl::IsNotFound(one.status));
    }
  };
  std::vector<double> alone, beside, puts;
  std::thread reader(read, std::ref(alone));
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds / 4));
  done = true;
  reader.join();
  done = false;
  const SpillStats before = (*store)->stats();
  const uint64_t device_before = DeviceWriteBytes(path);
  reader = std::thread(read, std::ref(beside));
  std::mt19937_64 random(5);
  const auto start = Clock::now();
  while (SecondsSince(start) < seconds) {
    for (size_t i = 0; i < kEach; ++i) std::swap(places[i], places[i + random() % (kHeld - i)]);
    puts.push_back(put(std::span(places).first(kEach)));
  }
  const double took = SecondsSince(start);
  done = true;
  reader.join();
  const SpillStats after = (*store)->stats();
  const auto put_bytes = static_cast<double>(after.write_bytes - before.write_bytes);
  std::printf("random removals, 64 KiB blocks, %.0f s beside one reader\n", took);
  PrintTimes("get, alone", alone);
  PrintTimes("get, beside puts", beside);
  PrintTimes("put of 16 MiB, beside gets", puts);
  std::printf("  %.2f GB/s put; write amplification %.3f as counted, %.3f at the device; file %.3f of what is live\n",
              put_bytes / took / 1e9, static_cast<double>(after.disk_write_bytes - before.disk_write_bytes) / put_bytes,
              static_cast<double>(DeviceWriteBytes(path) - device_before) / put_bytes,
              static_cast<double>(after.disk_bytes) / static_cast<double>(kHeld * kBlockBytes));
  store->reset();
  std::filesystem::remove_all(path);
}

// Small payloads; a page each on disk.
void Restart(const std::string& directory, uint64_t records) {
  constexpr size_t kLength = 64;
  constexpr size_t kEach = 4096;
  const std::string path = directory + "/spill_bench";
  std::filesystem::remove_all(path);
  const Memory memory(kLength * kEach);
  uint64_t hash = 0;
  const auto fill = Clock::now();
  {
    auto store = DiskSpillStore::Open({.directory = path});
    STEM_CHECK(store.ok());
    std::vector<SpillWrite> writes;
    for (uint64_t number = 0; number < records; ++number) {
      SpillWrite& write = writes.emplace_back();
      write.meta.name = NameOf(number);
      if (number % 64 != 0) write.meta.parent = NameOf(number - 1).key;
      write.meta.length = kLength;
      write.payload = memory.bytes().subspan((writes.size() - 1) * kLength, kLength);
      write.meta.digest = Digest(write.meta.name, write.payload, std::span(&hash, 1));
      if (writes.size() < kEach && number + 1 < records) continue;
      STEM_CHECK((*store)->Put(writes).ok());
      writes.clear();
    }
  }
  std::printf("%llu records of %zu bytes put in %.1f s\n", static_cast<unsigned long long>(records), kLength, SecondsSince(fill));
  for (int round = 0; round < 3; ++round) {
    const auto start = Clock::now();
    auto store = DiskSpillStore::Open({.directory = path});
    STEM_CHECK(store.ok());
    const double opened = SecondsSince(start);
    uint64_t visited = 0;
    STEM_CHECK((*store)->ForEach([&](const BlockMeta&) { ++visited; }).ok());
    STEM_CHECK(visited == records);
    std::printf("  restart: open %.2f s, every record told after %.2f s\n", opened, SecondsSince(start));
    std::fflush(stdout);
  }
  std::filesystem::remove_all(path);
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "compare";
  const std::string directory = argc > 2 ? argv[2] : ".";
  uint64_t number = 0;
  bool understood = argc <= 3 || (absl::SimpleAtoi(argv[3], &number) && number > 0);
  std::vector<size_t> sizes;
  for (int i = 4; i < argc; ++i) {
    uint64_t kib = 0;
    understood = understood && absl::SimpleAtoi(argv[i], &kib) && kib >= 4 && kib <= 16384 && 16384 % kib == 0;
    sizes.push_back(kib << 10);
  }
  if (sizes.empty()) sizes = {64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20};
  if (!understood) {
    std::fprintf(stderr, "spill_bench: usage: spill_bench compare|churn|restart [DIRECTORY] [NUMBER] [KIB...]; sizes are powers "
                         "of two from 4 to 16384\n");
    return 2;
  }
  if (what == "compare") {
    stem::Compare(directory, number == 0 ? 5 : static_cast<int>(number), sizes);
  } else if (what == "churn") {
    stem::Churn(directory, number == 0 ? 20 : static_cast<double>(number));
  } else if (what == "restart") {
    stem::Restart(directory, number == 0 ? 1000000 : number);
  } else {
    std::fprintf(stderr, "spill_bench: \"%s\" is no bench; use compare, churn or restart\n", what.c_str());
    return 2;
  }
  return 0;
}
