#include "storage/transport/lane_probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "storage/transport/ucx_transport.h"

namespace stem {
namespace {

constexpr size_t kSmallBytes = 64;
constexpr size_t kBlockBytes = 1 << 20;
constexpr size_t kBlocks = 8;
constexpr int kSmallReads = 21;
constexpr int kLargeReads = 4;  // of kBlocks; the first also connects and touches
constexpr absl::Duration kPatience = absl::Seconds(5);

// Two stretches of memory: what is read, and where it lands. Their pages exist.
class ProbeMemory {
 public:
  ProbeMemory() : data_(mmap(nullptr, 2 * kHalf, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    // Pages that were never written are all one page of zeros, which no lane has to fetch from memory.
    if (valid()) std::fill_n(static_cast<std::byte*>(data_), 2 * kHalf, std::byte{1});
  }
  ~ProbeMemory() {
    if (valid()) munmap(data_, 2 * kHalf);
  }
  ProbeMemory(const ProbeMemory&) = delete;
  ProbeMemory& operator=(const ProbeMemory&) = delete;

  bool valid() const { return data_ != MAP_FAILED; }
  std::span<std::byte> source() const { return {static_cast<std::byte*>(data_), kHalf}; }
  std::span<std::byte> target() const { return {static_cast<std::byte*>(data_) + kHalf, kHalf}; }

 private:
  static constexpr size_t kHalf = kBlocks * kBlockBytes;
  void* const data_;
};

// One owner and one reader, a thread each, as two nodes have.
class Probe {
 public:
  static absl::StatusOr<std::unique_ptr<Probe>> Open(const UcxOptions& options) {
    std::unique_ptr<Probe> probe(new Probe());
    if (!probe->memory_.valid()) return absl::ResourceExhaustedError("cannot map 16 MiB to probe with");
    STEM_ASSIGN(probe->owner_, UcxTransport::Create({.ucx = options}));
    STEM_ASSIGN(probe->reader_, UcxTransport::Create({.ucx = options}));
    STEM_ASSIGN(probe->source_, probe->owner_->Register(probe->memory_.source(), MemoryPlace::kHost));
    STEM_ASSIGN(probe->target_, probe->reader_->Register(probe->memory_.target(), MemoryPlace::kHost));
    const PeerMemory memory{.worker_address = probe->owner_->worker_address(),
                            .regions = {{.arena = 0,
                                         .base = reinterpret_cast<uint64_t>(probe->memory_.source().data()),
                                         .bytes = probe->memory_.source().size(),
                                         .rkey = probe->source_->rkey()}},
                            .incarnation = 1};
    STEM_ASSIGN(probe->peer_, probe->reader_->Connect(memory, absl::Now() + kPatience));
    return probe;
  }
  ~Probe() {
    if (reader_ != nullptr) reader_->Close();
    if (owner_ != nullptr) owner_->Close();
  }

  // How long `count` ops of `bytes` take together.
  absl::StatusOr<absl::Duration> Time(size_t count, size_t bytes) {
    std::vector<ReadOp> ops;
    for (size_t i = 0; i < count; ++i) {
      ops.push_back({.arena = 0, .offset = i * bytes, .destination = memory_.target().subspan(i * bytes, bytes),
                     .registration = target_.get()});
    }
    struct {
      Mutex mutex;
      CondVar changed;
      bool over ABSL_GUARDED_BY(mutex) = false;
      absl::Status outcome ABSL_GUARDED_BY(mutex);
    } end;
    const absl::Time begin = absl::Now();
    STEM_TRY(reader_->Read(peer_, std::move(ops), begin + kPatience,
                           {.on_op = {},
                            .on_safe = [&end](absl::Status outcome) {
                              MutexLock lock(end.mutex);
                              end.outcome = std::move(outcome);
                              end.over = true;
                              end.changed.NotifyAll();
                            }}));
    MutexLock lock(end.mutex);
    while (!end.over) end.changed.Wait(end.mutex);
    STEM_TRY(end.outcome);
    return absl::Now() - begin;
  }

 private:
  Probe() = default;
  ProbeMemory memory_;
  std::unique_ptr<UcxTransport> owner_, reader_;
  std::unique_ptr<Registration> source_, target_;
  std::shared_ptr<RemotePeer> peer_;
};

absl::Status Measure(const UcxOptions& options, LaneProbe& lane) {
  STEM_ASSIGN(const ConfiguredUcx alone, ConfigureUcx(options));
  lane.memory_types = alone.memory_types;
  STEM_ASSIGN(const std::unique_ptr<Probe> probe, Probe::Open(options));
  std::vector<absl::Duration> small;
  for (int i = 0; i < kSmallReads; ++i) {
    STEM_ASSIGN(small.emplace_back(), probe->Time(1, kSmallBytes));
  }
  std::nth_element(small.begin(), small.begin() + kSmallReads / 2, small.end());
  lane.latency = small[kSmallReads / 2];
  for (int i = 0; i < kLargeReads; ++i) {
    STEM_ASSIGN(const absl::Duration took, probe->Time(kBlocks, kBlockBytes));
    lane.bytes_per_second =
        std::max(lane.bytes_per_second, static_cast<double>(kBlocks * kBlockBytes) / absl::ToDoubleSeconds(took));
  }
  return absl::OkStatus();
}

// Lanes for datagrams only help to connect, those of a GPU only to copy.
bool CarriesPayload(absl::string_view lane) {
  return !absl::StartsWith(lane, "ud") && !absl::StartsWith(lane, "self") && !absl::StartsWith(lane, "cuda") &&
         absl::StrContains(lane, '/');
}

}  // namespace

std::string LaneProbe::ToString() const {
  if (!status.ok()) return absl::StrCat(lane, ": not measured (", status.message(), ")");
  return absl::StrFormat("%s: %.0f us, %.2f GB/s, %s", lane, absl::ToDoubleMicroseconds(latency), bytes_per_second / 1e9,
                         absl::StrJoin(memory_types, " "));
}

absl::StatusOr<std::vector<LaneProbe>> ProbeLanes(const UcxOptions& options) {
  STEM_ASSIGN(const ConfiguredUcx all, ConfigureUcx(options));
  std::vector<LaneProbe> probes;
  for (const std::string& lane : all.lanes) {
    if (!CarriesPayload(lane)) continue;
    const std::pair<std::string, std::string> parts = absl::StrSplit(lane, absl::MaxSplits('/', 1));
    UcxOptions alone = options;
    alone.tls = parts.first;
    alone.devices = parts.second;
    alone.read_path = all.reads_by_messages ? ReadPath::kMessages : ReadPath::kGets;
    LaneProbe& probe = probes.emplace_back(LaneProbe{.lane = lane});
    probe.status = Measure(alone, probe);
  }
  return probes;
}

absl::Status CheckLanes(std::span<const LaneProbe> probes, uint64_t bytes_per_second_min) {
  size_t working = 0;
  std::vector<std::string> all;
  for (const LaneProbe& probe : probes) {
    working += probe.status.ok() ? 1 : 0;
    all.push_back(probe.ToString());
    if (bytes_per_second_min == 0) continue;
    if (!probe.status.ok() || probe.bytes_per_second < static_cast<double>(bytes_per_second_min)) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "lane %s; want at least %.2f GB/s: name better lanes, or lower the minimum", probe.ToString(),
          static_cast<double>(bytes_per_second_min) / 1e9));
    }
  }
  if (working > 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("no lane works: ", all.empty() ? "there is none" : absl::StrJoin(all, "; ")));
}

}  // namespace stem
