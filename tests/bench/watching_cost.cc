// What it costs to be watched: requests per second of a node that counts (and is scraped each second), logs, and sends the traces of 1 % of its
// requests to a collector (in this process too), over those of one that does nothing of it. Two nodes in this process, with clients of their own, take turns of a fraction of a second; a pair's ratio is of turns side by side.
// "by CPU": the same ratio by processor time per request, which others that share the machine disturb less.
// `watching_cost [--pairs N] [--turn-ms MS] [--clients N]`
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "httplib.h"
#include "proto/check.h"
#include "services/node/node.h"
#include "tests/support/span_receiver.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

struct Shape {
  const char* name;
  uint32_t blocks;
  uint64_t block_bytes;
};
constexpr Shape kShapes[] = {{"64 x 64 KiB", 64, 64 << 10}, {"16 x 64 KiB", 16, 64 << 10}, {"1 x 4 KiB", 1, 4 << 10}};

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

NamespaceSpec SpecOf(const Shape& shape) {
  return {.model = "bench", .kv_dtype = "bf16", .layout = "opaque", .block_tokens = 16, .parts = {{.id = 0, .block_bytes = shape.block_bytes}}};
}

// A node that holds one chain, and clients that ask for it.
class Side {
 public:
  Side(const Shape& shape, bool watched, size_t clients)
      : shape_(shape),
        log_lines_(watched ? directory_.path() + "/log" : "/dev/null"),
        log_({.process = "stem-node", .level = watched ? LogLevel::kInfo : LogLevel::kError, .out = &log_lines_}) {
    std::ofstream(directory_.path() + "/secret") << std::string(32, 's');
    chmod((directory_.path() + "/secret").c_str(), 0600);
    NodeConfig config;
    config.name = watched ? "watched" : "unwatched";
    config.socket = directory_.path() + "/node.sock";
    config.listen = config.http = "127.0.0.1:0";
    config.secret_file = directory_.path() + "/secret";
    config.dram_bytes = 64 << 20;
    config.counts = watched;
    if (watched) config.tracing.otlp = collector_.url();
    absl::StatusOr<std::unique_ptr<Node>> node = Node::Start(config, log_);
    STEM_CHECK(node.ok());
    node_ = *std::move(node);
    for (size_t i = 0; i < clients; ++i) clients_.push_back(Connect(config.socket));
    Publish();
    if (watched) scraper_ = std::thread([this] { Scrape(); });
  }
  ~Side() {
    stopping_ = true;
    if (scraper_.joinable()) scraper_.join();
  }

  struct Pace {
    double per_second = 0;
    double cpu_us = 0;  // of one request, of this process: client, node and all
  };
  Pace Turn(absl::Duration time) {
    std::atomic<uint64_t> requests{0};
    const double cpu_before = CpuSeconds();
    const absl::Time begin = absl::Now();
    std::vector<std::thread> threads;
    for (const auto& client : clients_) {
      threads.emplace_back([&] {
        std::vector<std::vector<std::byte>> memory(shape_.blocks, std::vector<std::byte>(shape_.block_bytes));
        const std::vector<std::span<std::byte>> pages(memory.begin(), memory.end());
        uint64_t done = 0;
        for (; absl::Now() < begin + time; ++done) {
          AcquireOptions options;
          options.request = "bench";
          options.block_compute = absl::Milliseconds(10);
          const absl::StatusOr<Stem> stem = client->Acquire(keys_, options, Soon());
          STEM_CHECK(stem.ok() && client->Load(*stem, 0, pages, Soon()).blocks_loaded == shape_.blocks);
        }
        requests += done;
      });
    }
    for (std::thread& thread : threads) thread.join();
    const auto count = static_cast<double>(requests);
    return {.per_second = count / absl::ToDoubleSeconds(absl::Now() - begin), .cpu_us = (CpuSeconds() - cpu_before) * 1e6 / count};
  }

 private:
  std::unique_ptr<CacheClient> Connect(const std::string& socket) {
    absl::StatusOr<std::unique_ptr<CacheClient>> client =
        CacheClient::Connect({.node = absl::StrCat("unix://", socket), .space = SpecOf(shape_), .staging_bytes = 8 << 20}, Soon());
    STEM_CHECK(client.ok());
    return *std::move(client);
  }
  void Publish() {
    std::vector<uint32_t> tokens(size_t{shape_.blocks} * 16, 7);
    keys_ = *clients_.front()->NewHasher()->HashPrompt("", tokens, {});
    Reservation reservation = *clients_.front()->Reserve(keys_, {}, Soon());
    for (const WantedPayload& wanted : reservation.wanted()) std::fill(wanted.staging.begin(), wanted.staging.end(), std::byte{7});
    STEM_CHECK(clients_.front()->Commit(std::move(reservation), Soon())->committed == shape_.blocks);
  }
  void Scrape() {
    httplib::Client http("http://" + node_->http_address());
    while (!stopping_) {
      STEM_CHECK(http.Get("/metrics"));
      for (int i = 0; i < 20 && !stopping_; ++i) absl::SleepFor(absl::Milliseconds(50));
    }
  }

  const Shape shape_;
  TempDirectory directory_;
  std::ofstream log_lines_;
  Logger log_;
  SpanReceiver collector_;
  std::unique_ptr<Node> node_;
  std::vector<std::unique_ptr<CacheClient>> clients_;
  std::vector<BlockKey> keys_;
  std::atomic<bool> stopping_{false};
  std::thread scraper_;
};

double Quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1))];
}

void Compare(const Shape& shape, int pairs, absl::Duration turn, size_t clients) {
  Side unwatched(shape, false, clients), watched(shape, true, clients);
  unwatched.Turn(turn);
  watched.Turn(turn);
  std::vector<double> off, on, throughput, cpu;
  for (int i = 0; i < pairs; ++i) {
    const bool first = i % 2 == 0;  // who goes first changes, so that drift falls on both
    Side::Pace without, with;
    if (first) without = unwatched.Turn(turn);
    with = watched.Turn(turn);
    if (!first) without = unwatched.Turn(turn);
    off.push_back(without.per_second);
    on.push_back(with.per_second);
    throughput.push_back(with.per_second / without.per_second);
    cpu.push_back(without.cpu_us / with.cpu_us);
  }
  std::printf("%-12s %10.0f %10.0f %8.3f  %.3f .. %.3f %8.3f  %.3f .. %.3f\n", shape.name, Quantile(off, 0.5), Quantile(on, 0.5),
              Quantile(throughput, 0.5), Quantile(throughput, 0.25), Quantile(throughput, 0.75), Quantile(cpu, 0.5), Quantile(cpu, 0.25),
              Quantile(cpu, 0.75));
}

int Main(int argc, char** argv) {
  int pairs = 50, turn_ms = 100;
  size_t clients = 2;
  CLI::App app("what metrics, logs and traces cost a node");
  app.add_option("--pairs", pairs, "of turns, one unwatched and one watched")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--turn-ms", turn_ms, "of one turn")->capture_default_str()->check(CLI::Range(10, 60000));
  app.add_option("--clients", clients, "threads, each with a session")->capture_default_str()->check(CLI::Range(1, 64));
  CLI11_PARSE(app, argc, argv);
  std::printf("%-12s %10s %10s %8s  %14s %8s  %14s\n", "stems of", "off, req/s", "on, req/s", "on/off", "middle half", "by CPU", "middle half");
  for (const Shape& shape : kShapes) Compare(shape, pairs, absl::Milliseconds(turn_ms), clients);
  return 0;
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) { return stem::Main(argc, argv); }
