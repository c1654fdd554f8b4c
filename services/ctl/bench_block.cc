#include "services/ctl/bench_block.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "services/ctl/latency_histogram.h"
#include "services/ctl/machine_limits.h"
#include "services/ctl/oracle.h"
#include "services/ctl/process.h"
#include "services/ctl/stream_echo.h"
#include "services/ctl/temporary_cluster.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kBlockTokens = 16;
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr uint64_t kStagingBytes = 256 << 20;
constexpr uint32_t kEchoes = 2000;
constexpr char kArenaName[] = "stemcache-default";  // the memory file of the arena of a node's own user

double SecondsSince(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

// Memory that is there before it is measured: an engine's own, or such as arenas are made of.
class Pages {
 public:
  enum class Kind { kPrivate = MAP_PRIVATE, kShared = MAP_SHARED };
  Pages(size_t bytes, Kind kind)
      : bytes_(bytes),
        data_(static_cast<std::byte*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                           static_cast<int>(kind) | MAP_ANONYMOUS | MAP_POPULATE, -1, 0))) {}
  ~Pages() {
    if (data_ != MAP_FAILED) munmap(data_, bytes_);
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  bool valid() const { return data_ != MAP_FAILED; }
  std::span<std::byte> bytes() const { return {data_, bytes_}; }

 private:
  const size_t bytes_;
  std::byte* const data_;
};

// One path, block size, stem length and number of threads.
class Case {
 public:
  Case(const BenchBlockOptions& options, BenchPath path, uint64_t block_bytes, uint32_t stem_blocks, uint32_t threads)
      : options_(options),
        path_(path),
        block_bytes_(block_bytes),
        stem_blocks_(stem_blocks),
        threads_(threads),
        stems_(static_cast<uint32_t>(std::max<uint64_t>(1, WorkingSet() / block_bytes / stem_blocks))),
        source_(round_bytes(), Pages::Kind::kShared),
        target_(round_bytes(), Pages::Kind::kPrivate) {}

  absl::StatusOr<BenchBlockRow> Run() {
    if (!source_.valid() || !target_.valid()) {
      return absl::ResourceExhaustedError(absl::StrCat("cannot map 2 x ", round_bytes(), " bytes; lower --working-set"));
    }
    std::fill(source_.bytes().begin(), source_.bytes().end(), std::byte{1});
    STEM_TRY(StartCluster());
    STEM_ASSIGN(const LatencyHistogram echoes, MeasureStreamEcho(kEchoes));
    echo_p50_us_ = echoes.QuantileUs(0.5);
    // One round more than is counted: the first touches every page for the first time.
    for (uint32_t round = 0; round <= options_.rounds; ++round) STEM_TRY(Round(round));
    return Row();
  }

 private:
  uint64_t stem_slots_bytes() const { return stem_blocks_ * (block_bytes_ + 3 * 4096); }  // a slot has a head
  // Of the path ssd: little more than what is being read.
  uint64_t SsdDramBytes() const { return std::max<uint64_t>(2 * stem_slots_bytes(), 64 << 20); }
  // Read in a circle under LRU, four times the DRAM comes from the disk alone.
  uint64_t WorkingSet() const {
    return path_ == BenchPath::kSsd ? std::max(options_.working_set_bytes, 4 * SsdDramBytes()) : options_.working_set_bytes;
  }
  size_t round_bytes() const { return size_t{stems_} * stem_blocks_ * block_bytes_; }
  bool remote() const { return path_ == BenchPath::kRemoteShm || path_ == BenchPath::kRemoteTcp; }

  absl::Status StartCluster() {
    // A block that was read is a copy on the reader's node: every remote round needs blocks of its own.
    const uint64_t rounds = remote() ? options_.rounds + 1 : 1;
    const uint64_t slots_bytes = (uint64_t{stems_} + 1) * stem_slots_bytes();
    const bool ssd = path_ == BenchPath::kSsd;
    const uint64_t dram_bytes = ssd ? SsdDramBytes() : rounds * slots_bytes + (64 << 20);
    ClusterUpOptions up{.dir = "",
                        .nodes = remote() ? 2u : 1u,
                        .dram_bytes = (dram_bytes + (1 << 20)) >> 20 << 20,
                        .ssd_bytes = ssd ? 2 * slots_bytes + (1 << 30) : 0,
                        .map_host_peers = path_ != BenchPath::kRemoteTcp,
                        .binaries = options_.binaries};
    if (ssd) up.policy = "lru";
    STEM_ASSIGN(cluster_, TemporaryCluster::Start(up));
    STEM_ASSIGN(writer_, Connect(0, kStagingBytes));
    STEM_ASSIGN(reader_, Connect(remote() ? 1 : 0, 0));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<CacheClient>> Connect(size_t node, uint64_t staging_bytes) const {
    return CacheClient::Connect({.node = GrpcTarget(cluster_->state().nodes[node].socket),
                                 .space = {.model = "stemctl-bench",
                                           .kv_dtype = "opaque",
                                           .layout = "opaque",
                                           .block_tokens = kBlockTokens,
                                           .parts = {{.id = 0, .block_bytes = block_bytes_}}},
                                 .staging_bytes = staging_bytes,
                                 .client_name = "stemctl bench",
                                 .shared_group = "",
                                 .local_proof = options_.proof,
                                 .load_threads = options_.load_threads},
                                absl::Now() + kPatience);
  }

  struct Chain {
    std::vector<BlockKey> keys;
    std::vector<PrefixDigest> prefixes;
  };
  absl::StatusOr<Chain> ChainOf(uint32_t round, uint32_t stem) {
    Chain chain;
    STEM_ASSIGN(ChainHasher hasher, writer_->NewHasher());
    std::vector<uint32_t> tokens(kBlockTokens);
    oracle_.Reset(writer_->fingerprint());
    for (uint32_t block = 0; block < stem_blocks_; ++block) {
      TokensOf((uint64_t{round} * (stems_ + 1) + stem) * stem_blocks_ + block, tokens);
      STEM_TRY(hasher.AppendTokens(tokens, chain.keys));
      chain.prefixes.push_back(oracle_.Extend(tokens));
    }
    return chain;
  }

  absl::Status Publish(const Chain& chain) {
    for (uint32_t first = 0; first < stem_blocks_;) {
      ReserveOptions options;
      if (first > 0) options.parent = chain.keys[first - 1];
      STEM_ASSIGN(Reservation reservation,
                  writer_->Reserve(std::span(chain.keys).subspan(first), options, absl::Now() + kPatience));
      const auto wanted = static_cast<uint32_t>(reservation.wanted().size());
      if (wanted == 0) return absl::ResourceExhaustedError("the node wants no more blocks; lower --working-set");
      for (const WantedPayload& payload : reservation.wanted()) {
        FillPayload(chain.prefixes[first + payload.block], {1, 1}, payload.staging);
      }
      STEM_ASSIGN(const CommitResult done, writer_->Commit(std::move(reservation), absl::Now() + kPatience));
      if (done.committed != wanted) return absl::ResourceExhaustedError(absl::StrCat("a publish was refused: ", done.reason));
      first += wanted;
    }
    return absl::OkStatus();
  }

  absl::Status Round(uint32_t round) {
    if (round == 0 || remote()) {
      chains_.clear();
      for (uint32_t stem = 0; stem < stems_; ++stem) {
        STEM_ASSIGN(chains_.emplace_back(), ChainOf(round, stem));
        STEM_TRY(Publish(chains_.back()));
      }
      if (remote()) STEM_TRY(AwaitVisible(round));
    }
    const double memcpy_rate = MemcpyRate(source_.bytes(), target_.bytes(), block_bytes_);
    const double streamed_rate = StreamedCopyRate(source_.bytes(), target_.bytes(), block_bytes_);
    double tcp_rate = 0;
    if (path_ == BenchPath::kRemoteTcp) {
      STEM_ASSIGN(tcp_rate, TcpRate(source_.bytes(), target_.bytes(), block_bytes_));
    }
    double disk_rate = 0;
    if (path_ == BenchPath::kSsd) {
      STEM_ASSIGN(disk_rate, DiskReadRate(cluster_->dir(), round_bytes(), block_bytes_));
    }
    LatencyHistogram acquires, stems;
    const double cpu_before = cluster_->CpuSeconds();
    const Clock::time_point begin = Clock::now();
    STEM_TRY(FetchAll(acquires, stems));
    const double seconds = SecondsSince(begin);
    const double cpu = cluster_->CpuSeconds() - cpu_before;
    STEM_TRY(CheckBytes());
    if (round == 0) {
      AwaitPagesEntered();
      return absl::OkStatus();
    }
    const auto bytes = static_cast<double>(round_bytes());
    const double rate = bytes / seconds;
    rounds_.push_back({.acquire_p50_us = acquires.QuantileUs(0.5),
                       .stem_p50_us = stems.QuantileUs(0.5),
                       .stem_p99_us = stems.QuantileUs(0.99),
                       .rate = rate,
                       .cpu_seconds_per_gb = cpu / (bytes / 1e9),
                       .memcpy_rate = memcpy_rate,
                       .streamed_copy_rate = streamed_rate,
                       .tcp_rate = tcp_rate,
                       .disk_rate = disk_rate,
                       .ratio = rate / std::max({tcp_rate, disk_rate, tcp_rate + disk_rate > 0 ? 0 : memcpy_rate})});
    return absl::OkStatus();
  }

  // Every stem of the round, by all threads.
  absl::Status FetchAll(LatencyHistogram& acquires, LatencyHistogram& stems) {
    struct Share {
      LatencyHistogram acquires, stems;
      absl::Status status;
    };
    std::vector<Share> shares(threads_);
    std::atomic<uint32_t> next{0};
    const auto fetch = [&](Share& share) {
      for (uint32_t stem = next++; stem < stems_ && share.status.ok(); stem = next++) share.status = Fetch(stem, share.acquires, share.stems);
    };
    std::vector<std::thread> others;
    for (uint32_t i = 1; i < threads_; ++i) others.emplace_back(fetch, std::ref(shares[i]));
    fetch(shares.front());
    for (std::thread& each : others) each.join();
    for (const Share& share : shares) {
      STEM_TRY(share.status);
      acquires.Add(share.acquires);
      stems.Add(share.stems);
    }
    return absl::OkStatus();
  }

  absl::Status Fetch(uint32_t stem, LatencyHistogram& acquires, LatencyHistogram& stems) {
    std::vector<std::span<std::byte>> destinations;
    for (uint32_t block = 0; block < stem_blocks_; ++block) {
      destinations.push_back(target_.bytes().subspan((size_t{stem} * stem_blocks_ + block) * block_bytes_, block_bytes_));
    }
    const absl::Time deadline = absl::Now() + kPatience;
    const Clock::time_point begin = Clock::now();
    if (path_ == BenchPath::kLocalGet) {
      const GetResult got = reader_->Get(chains_[stem].keys, {}, destinations, deadline);
      stems.Record(absl::Seconds(SecondsSince(begin)));
      STEM_TRY(got.status);
      return got.blocks_loaded == stem_blocks_ ? absl::OkStatus() : OnlyMatched(got.blocks_loaded);
    }
    STEM_ASSIGN(Stem acquired, reader_->Acquire(chains_[stem].keys, {}, deadline));
    acquires.Record(absl::Seconds(SecondsSince(begin)));
    if (acquired.matched_blocks() != stem_blocks_) return OnlyMatched(acquired.matched_blocks());
    const LoadResult loaded = reader_->Load(acquired, 0, destinations, deadline);
    stems.Record(absl::Seconds(SecondsSince(begin)));
    return loaded.status;
  }

  absl::Status OnlyMatched(uint32_t blocks) const {
    return absl::UnavailableError(absl::StrCat("a stem of ", stem_blocks_, " blocks matched ", blocks));
  }

  absl::Status CheckBytes() const {
    for (uint32_t stem = 0; stem < stems_; ++stem) {
      for (uint32_t block = 0; block < stem_blocks_; ++block) {
        const auto payload = target_.bytes().subspan((size_t{stem} * stem_blocks_ + block) * block_bytes_, block_bytes_);
        if (const auto mismatch = CheckPayload(chains_[stem].prefixes[block], payload)) {
          return absl::DataLossError(absl::StrCat("stem ", stem, ", block ", block, ": ", mismatch->ToString()));
        }
      }
    }
    return absl::OkStatus();
  }

  // Until the directory has heard of all that was published: a node announces in order, so a chain more is published for this.
  absl::Status AwaitVisible(uint32_t round) {
    STEM_ASSIGN(const Chain last, ChainOf(round, stems_));
    STEM_TRY(Publish(last));
    const absl::Time end = absl::Now() + kPatience;
    while (absl::Now() < end) {
      STEM_ASSIGN(const Stem stem, reader_->Acquire(last.keys, {}, end));
      if (stem.matched_blocks() == stem_blocks_) return absl::OkStatus();
      absl::SleepFor(absl::Milliseconds(5));
    }
    return absl::UnavailableError("the directory did not hear of the blocks in time");
  }

  uint64_t UnenteredByAll() const {
    uint64_t bytes = UnenteredBytes(getpid(), kArenaName);
    for (const ClusterMember& node : cluster_->state().nodes) bytes += UnenteredBytes(node.process.pid, kArenaName);
    return bytes;
  }

  // Who maps a node's memory enters its pages in the background, with a fifth of a processor; that first second or two is not what is measured.
  // Where the kernel does not know how, no more come.
  void AwaitPagesEntered() const {
    uint64_t left = UnenteredByAll();
    for (absl::Time came = absl::Now(); left > 0 && absl::Now() - came < absl::Seconds(1);) {
      absl::SleepFor(absl::Milliseconds(250));
      const uint64_t now = UnenteredByAll();
      if (now < left) came = absl::Now();
      left = now;
    }
  }

  // Each figure is the median of its own over the rounds.
  BenchBlockRow Row() const {
    BenchBlockRow row{.path = path_,
                      .block_bytes = block_bytes_,
                      .stem_blocks = stem_blocks_,
                      .threads = threads_,
                      .echo_p50_us = echo_p50_us_};
    for (double BenchBlockRow::*const figure :
         {&BenchBlockRow::acquire_p50_us, &BenchBlockRow::stem_p50_us, &BenchBlockRow::stem_p99_us, &BenchBlockRow::rate,
          &BenchBlockRow::cpu_seconds_per_gb, &BenchBlockRow::memcpy_rate, &BenchBlockRow::streamed_copy_rate,
          &BenchBlockRow::tcp_rate, &BenchBlockRow::disk_rate, &BenchBlockRow::ratio}) {
      std::vector<double> values;
      for (const BenchBlockRow& round : rounds_) values.push_back(round.*figure);
      row.*figure = Median(std::move(values));
    }
    return row;
  }

  const BenchBlockOptions& options_;
  const BenchPath path_;
  const uint64_t block_bytes_;
  const uint32_t stem_blocks_;
  const uint32_t threads_;
  const uint32_t stems_;
  const Pages source_, target_;
  std::unique_ptr<TemporaryCluster> cluster_;
  std::unique_ptr<CacheClient> writer_, reader_;
  PrefixHasher oracle_;
  std::vector<Chain> chains_;
  std::vector<BenchBlockRow> rounds_;  // figures only
  double echo_p50_us_ = 0;
};

}  // namespace

const char* NameOf(BenchPath path) {
  switch (path) {
    case BenchPath::kLocal: return "local";
    case BenchPath::kLocalGet: return "local-get";
    case BenchPath::kRemoteShm: return "remote-shm";
    case BenchPath::kRemoteTcp: return "remote-tcp";
    case BenchPath::kSsd: return "ssd";
  }
  return "";
}

absl::StatusOr<std::vector<BenchBlockRow>> RunBenchBlock(const BenchBlockOptions& options) {
  std::vector<BenchBlockRow> rows;
  for (const BenchPath path : options.paths) {
    for (const uint64_t block_bytes : options.block_bytes) {
      if (block_bytes < 4096 || block_bytes > options.working_set_bytes) {
        return absl::InvalidArgumentError(absl::StrCat("--sizes: ", FormatBytes(block_bytes), " must be 4KiB to the working set's ",
                                                       FormatBytes(options.working_set_bytes)));
      }
      for (const uint32_t stem_blocks : options.stem_blocks) {
        if (stem_blocks == 0 || stem_blocks > options.working_set_bytes / block_bytes) {
          return absl::InvalidArgumentError(absl::StrCat("--stem-blocks: ", stem_blocks, " blocks of ", FormatBytes(block_bytes),
                                                         " must be 1 block to the working set's ",
                                                         FormatBytes(options.working_set_bytes)));
        }
        for (const uint32_t threads : options.threads) {
          STEM_ASSIGN(rows.emplace_back(), Case(options, path, block_bytes, stem_blocks, threads).Run());
        }
      }
    }
  }
  return rows;
}

std::string ToTable(const std::vector<BenchBlockRow>& rows) {
  std::string table = fmt::format("{:<11} {:>7} {:>6} {:>7} {:>7} {:>9} {:>9} {:>9} {:>9} {:>8} {:>7} {:>8} {:>7} {:>6} {:>6}\n", "path",
                                  "block", "blocks", "threads", "GB/s", "echo p50", "acq p50", "stem p50", "stem p99", "cpu s/GB",
                                  "memcpy", "streamed", "socket", "disk", "ratio");
  for (const BenchBlockRow& row : rows) {
    table += fmt::format(
        "{:<11} {:>7} {:>6} {:>7} {:>7.2f} {:>6.0f} us {:>6.0f} us {:>6.0f} us {:>6.0f} us {:>8.3f} {:>7.2f} {:>8.2f} {:>7.2f} {:>6.2f} "
        "{:>6.2f}\n",
        NameOf(row.path), FormatBytes(row.block_bytes), row.stem_blocks, row.threads, row.rate / 1e9, row.echo_p50_us,
        row.acquire_p50_us, row.stem_p50_us, row.stem_p99_us, row.cpu_seconds_per_gb, row.memcpy_rate / 1e9,
        row.streamed_copy_rate / 1e9, row.tcp_rate / 1e9, row.disk_rate / 1e9, row.ratio);
  }
  return table;
}

nlohmann::json ToJson(const std::vector<BenchBlockRow>& rows) {
  nlohmann::json json = nlohmann::json::array();
  for (const BenchBlockRow& row : rows) {
    json.push_back({{"path", NameOf(row.path)},
                    {"block_bytes", row.block_bytes},
                    {"stem_blocks", row.stem_blocks},
                    {"threads", row.threads},
                    {"bytes_per_second", row.rate},
                    {"acquire_us", {{"p50", row.acquire_p50_us}}},
                    {"stem_us", {{"p50", row.stem_p50_us}, {"p99", row.stem_p99_us}}},
                    {"cpu_seconds_per_gb", row.cpu_seconds_per_gb},
                    {"limits", {{"stream_echo_us", {{"p50", row.echo_p50_us}}},
                                {"memcpy_bytes_per_second", row.memcpy_rate},
                                {"streamed_copy_bytes_per_second", row.streamed_copy_rate},
                                {"tcp_bytes_per_second", row.tcp_rate},
                                {"disk_bytes_per_second", row.disk_rate}}},
                    {"ratio", row.ratio}});
  }
  return json;
}

}  // namespace stem
