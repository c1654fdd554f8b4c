#include "services/ctl/replay.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/mutex.h"
#include "services/ctl/oracle.h"
#include "services/ctl/replay_client.h"
#include "services/ctl/replay_router.h"

namespace stem {
namespace {

constexpr uint32_t kClientsMax = 256;
constexpr uint64_t kBlockBytesMost = 1ULL << 30;

absl::Status Validate(const ReplayOptions& options, uint32_t block_tokens) {
  const uint64_t block_bytes = uint64_t{block_tokens} * options.bytes_per_token;
  if (block_bytes < kOraclePayloadBytesMin || block_bytes > kBlockBytesMost) {
    return absl::InvalidArgumentError(absl::StrFormat("%d tokens a block of %d bytes make %d bytes; must be %d..%d",
                                                      block_tokens, options.bytes_per_token, block_bytes,
                                                      kOraclePayloadBytesMin, kBlockBytesMost));
  }
  if (options.clients < 1 || options.clients > kClientsMax) {
    return absl::InvalidArgumentError(absl::StrFormat("--clients %d; must be 1..%d", options.clients, kClientsMax));
  }
  if (options.nodes.empty()) return absl::InvalidArgumentError("no nodes; give --dir or --nodes");
  if (options.speed < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("--speed %g; must be 0 or more", options.speed));
  }
  if (options.deadline < absl::Milliseconds(1) || options.deadline > absl::Hours(1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--deadline-ms %d; must be 1..3600000", absl::ToInt64Milliseconds(options.deadline)));
  }
  if (options.routing == Routing::kBestMatch && (options.directory.empty() || options.secret_file.empty())) {
    return absl::InvalidArgumentError(
        "--routing best-match asks the directory; give --dir, or --directory and --secret-file");
  }
  return absl::OkStatus();
}

// How many requests there are; checks every line, so that a bad one stops the replay before it begins.
absl::StatusOr<uint64_t> CountRequests(const ReplayOptions& options, uint32_t* block_tokens) {
  STEM_ASSIGN(const auto reader, TraceReader::Open(options.trace, {options.format, options.block_tokens}));
  *block_tokens = reader->block_tokens();
  TraceRequest request;
  uint64_t requests = 0;
  while (options.requests_max == 0 || requests < options.requests_max) {
    STEM_ASSIGN(const bool more, reader->Next(&request));
    if (!more) break;
    ++requests;
  }
  if (requests == 0) return absl::InvalidArgumentError(absl::StrCat("the trace ", options.trace, " has no requests"));
  return requests;
}

// Hands out the trace's requests in file order, one at a time, and ends the replay when one client fails.
class RequestSource {
 public:
  RequestSource(std::unique_ptr<TraceReader> reader, uint64_t requests, double speed)
      : reader_(std::move(reader)), requests_(requests), speed_(speed), begun_(absl::Now()) {}

  // The next request and its number; false when there is none. Waits for the trace's own time when there is a pace.
  bool Next(TraceRequest* request, uint64_t* index) {
    MutexLock lock(mutex_);
    if (!status_.ok() || given_ == requests_) return false;
    const absl::StatusOr<bool> more = reader_->Next(request);
    if (!more.ok() || !*more) {
      status_.Update(more.status());
      return false;
    }
    *index = given_++;
    if (speed_ <= 0) return true;
    const absl::Time due = begun_ + absl::Milliseconds(static_cast<double>(request->timestamp_ms)) / speed_;
    while (status_.ok() && absl::Now() < due) changed_.WaitFor(mutex_, due - absl::Now());
    return status_.ok();
  }

  void Fail(const absl::Status& status) {
    MutexLock lock(mutex_);
    status_.Update(status);
    changed_.NotifyAll();
  }

  void ClientEnded() {
    MutexLock lock(mutex_);
    ++ended_;
    changed_.NotifyAll();
  }

  // Waits until `clients` have ended; false when `timeout` passed first.
  bool AwaitEnd(uint32_t clients, absl::Duration timeout) {
    MutexLock lock(mutex_);
    const absl::Time end = absl::Now() + timeout;
    while (ended_ < clients && absl::Now() < end) changed_.WaitFor(mutex_, end - absl::Now());
    return ended_ == clients;
  }

  absl::Status status() {
    MutexLock lock(mutex_);
    return status_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  const std::unique_ptr<TraceReader> reader_ ABSL_PT_GUARDED_BY(mutex_);
  const uint64_t requests_;
  const double speed_;
  const absl::Time begun_;
  uint64_t given_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

struct SharedCounts {
  std::atomic<uint64_t> requests = 0;
  std::atomic<uint64_t> blocks = 0;
  std::atomic<uint64_t> blocks_hit = 0;
};

void RunClient(ReplayClient& client, ReplayRouter& router, RequestSource& source, SharedCounts& counts) {
  TraceRequest request;
  uint64_t index = 0;
  while (source.Next(&request, &index)) {
    if (const absl::Status served = client.Serve(index, request, router); !served.ok()) {
      source.Fail(
          absl::Status(served.code(), absl::StrFormat("request of line %d: %s", request.line, served.message())));
      break;
    }
    counts.requests.fetch_add(1, std::memory_order_relaxed);
    counts.blocks.fetch_add(client.last_blocks(), std::memory_order_relaxed);
    counts.blocks_hit.fetch_add(client.last_hits(), std::memory_order_relaxed);
  }
  source.ClientEnded();
}

}  // namespace

absl::StatusOr<ReplayReport> RunReplay(const ReplayOptions& options, const ReplayHooks& hooks, Progress* progress) {
  uint32_t block_tokens = 0;
  STEM_ASSIGN(const uint64_t requests, CountRequests(options, &block_tokens));
  STEM_TRY(Validate(options, block_tokens));
  STEM_ASSIGN(auto reader, TraceReader::Open(options.trace, {options.format, options.block_tokens}));
  std::vector<std::unique_ptr<ReplayClient>> clients;
  for (uint32_t i = 0; i < options.clients; ++i) {
    STEM_ASSIGN(auto client, ReplayClient::Connect(options, hooks, block_tokens, i));
    clients.push_back(std::move(client));
  }
  STEM_ASSIGN(const auto router, ReplayRouter::Create(options, clients[0]->node_names(), clients[0]->space()));

  RequestSource source(std::move(reader), requests, options.speed);
  SharedCounts counts;
  const absl::Time begun = absl::Now();
  std::vector<std::thread> threads;
  for (const auto& client : clients) {
    threads.emplace_back([&] { RunClient(*client, *router, source, counts); });
  }
  const auto show = [&] {
    if (progress == nullptr) return;
    progress->Show(
        {counts.requests.load(), requests, counts.blocks.load(), counts.blocks_hit.load(), absl::Now() - begun});
  };
  const absl::Duration interval = progress == nullptr ? absl::Hours(1) : progress->interval();
  while (!source.AwaitEnd(options.clients, interval)) show();
  for (std::thread& thread : threads) thread.join();
  ReplayReport report;
  report.wall = absl::Now() - begun;
  show();
  if (progress != nullptr) progress->End();
  STEM_TRY(source.status());
  report.partial = options.partial;
  for (const auto& client : clients) report.tally.Add(client->tally());
  return report;
}

}  // namespace stem
