#include "services/runtime/tracing.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"
#include "proto/mixed.h"
#include "services/runtime/backoff.h"
#include "services/runtime/config.h"
#include "services/runtime/otlp.h"

namespace stem {
namespace {

constexpr size_t kBatchSpans = 512;
constexpr absl::Duration kBatchWait = absl::Milliseconds(500);  // for a batch to fill
constexpr absl::Duration kFlushMax = absl::Seconds(2);          // at the end of the process
constexpr absl::Duration kRetryFirst = absl::Milliseconds(200);
constexpr absl::Duration kRetryMax = absl::Seconds(10);
constexpr absl::Duration kBatchAgeMax = absl::Seconds(60);  // then it is dropped, for what is newer
constexpr char kDrops[3][16] = {"queue_full", "unreachable", "refused"};

uint64_t NotZero(uint64_t id) { return id == 0 ? 1 : id; }

absl::Status CheckOtlp(absl::string_view text) { return text.empty() ? absl::OkStatus() : ParseOtlpUrl(text).status(); }

}  // namespace

void AddOptions(CLI::App& app, TracingOptions& options) {
  AddCheckedOption(app, "--otlp", options.otlp, CheckOtlp,
                   "OpenTelemetry collector that takes traces over HTTP, http://host:port, usually port 4318; empty = no traces");
  app.add_option("--trace-sample", options.sample, "Share of the traces that begin here which are kept, 0 to 1")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  AddDurationOption(app, "--trace-slow", options.slow, {absl::ZeroDuration(), absl::Hours(1)},
                    "Keep the spans of what takes longer, sampled or not; 0s = do not");
}

absl::Status CheckTracingOptions(const TracingOptions& options) {
  if (const absl::Status url = CheckOtlp(options.otlp); !url.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--otlp: ", url.message()));
  }
  if (options.sample >= 0 && options.sample <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--trace-sample: ", options.sample, " is out of range; it must be 0 to 1"));
}

Tracer::Tracer(const TracingOptions& options, std::string service, std::string instance, Logger& log)
    : options_(options),
      service_(std::move(service)),
      instance_(std::move(instance)),
      log_(log),
      ids_(uint64_t{std::random_device()()} << 32 | std::random_device()()),
      dropped_(std::vector<const char*>(std::begin(kDrops), std::end(kDrops))) {
  if (!on()) return;
  if (!IsLoopback(ParseOtlpUrl(options_.otlp)->address)) {
    log_.Warn("traces_leave_host", {{"otlp", options_.otlp}, {"why", "tenants, models and request ids go there unencrypted"}});
  }
  thread_ = std::thread([this] { Run(); });
}

Tracer::~Tracer() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    stop_by_ = absl::Now() + kFlushMax;
    changed_.NotifyAll();
  }
  thread_.join();
}

// ---- Contexts -----------------------------------------------------------------------------------------------------------

TraceContext Tracer::Read(absl::string_view traceparent) {
  if (traceparent.empty()) return {};
  const std::optional<TraceContext> context = ParseTraceparent(traceparent);
  if (!context.has_value()) ignored_.fetch_add(1, std::memory_order_relaxed);
  return context.value_or(TraceContext());
}

TraceContext Tracer::Read(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find(kTraceparent);
  return found == context.client_metadata().end() ? TraceContext() : Read(absl::string_view(found->second.data(), found->second.size()));
}

void Tracer::Write(const TraceContext& trace, grpc::ClientContext& context) {
  if (trace.valid()) context.AddMetadata(kTraceparent, ToTraceparent(trace));
}

// Told apart, not kept secret.
uint64_t Tracer::NewId() { return NotZero(Mixed(ids_.fetch_add(0x9e3779b97f4a7c15, std::memory_order_relaxed))); }

TraceContext Tracer::Begin(const TraceContext& caller) {
  if (!on()) return caller;
  TraceContext context = caller;
  if (!caller.valid()) {
    context.trace_high = NewId();
    context.trace_low = NewId();
    // As OpenTelemetry's TraceIdRatioBased: by the id's last 56 bits, so that who asks twice is told the same.
    context.sampled = std::ldexp(static_cast<double>(context.trace_low & ((1ULL << 56) - 1)), -56) < options_.sample;
  }
  context.span = NewId();
  return context;
}

TraceContext Tracer::Child(const TraceContext& parent, uint64_t number) {
  TraceContext child = parent;
  if (parent.valid()) child.span = NotZero(Mixed(parent.span + (number + 1) * 0x9e3779b97f4a7c15));
  return child;
}

// ---- Queue --------------------------------------------------------------------------------------------------------------

void Tracer::Keep(std::vector<Span> spans) {
  if (!on()) return;
  MutexLock lock(mutex_);
  const size_t queued = queue_.size();
  const size_t taken = std::min(spans.size(), kQueuedMax - queued);
  std::move(spans.begin(), spans.begin() + static_cast<ptrdiff_t>(taken), std::back_inserter(queue_));
  if (taken < spans.size()) dropped_.Add(kQueueFull, spans.size() - taken);
  // Not at every span: while the collector is dead the queue is long, and whoever works would wake the sender for nothing.
  if (queued == 0 || (queued < kBatchSpans && queue_.size() >= kBatchSpans)) changed_.NotifyAll();
}

void Tracer::Park(std::vector<Span> spans) {
  if (!on() || spans.empty() || spans.size() > kParkedMax) return;
  std::vector<std::vector<Span>> forgotten;  // end after the lock
  MutexLock lock(mutex_);
  parked_spans_ += spans.size();
  parked_.push_back(std::move(spans));
  while (parked_spans_ > kParkedMax) {
    parked_spans_ -= parked_.front().size();
    forgotten.push_back(std::move(parked_.front()));
    parked_.pop_front();
  }
}

void Tracer::KeepParked(const TraceContext& trace) {
  if (!on() || !trace.valid()) return;
  std::vector<Span> kept;
  {
    MutexLock lock(mutex_);
    std::erase_if(parked_, [&](std::vector<Span>& spans) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      const TraceContext& self = spans.front().self;
      if (self.trace_high != trace.trace_high || self.trace_low != trace.trace_low) return false;
      parked_spans_ -= spans.size();
      std::move(spans.begin(), spans.end(), std::back_inserter(kept));
      return true;
    });
  }
  Keep(std::move(kept));
}

// ---- Sending ------------------------------------------------------------------------------------------------------------

void Tracer::Run() {
  const OtlpUrl url = *ParseOtlpUrl(options_.otlp);
  OtlpClient client(url, {.service = service_, .instance = instance_});
  while (true) {
    std::vector<Span> batch;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
      if (queue_.size() < kBatchSpans && !stopping_) changed_.WaitFor(mutex_, kBatchWait);
      const auto end = queue_.begin() + static_cast<ptrdiff_t>(std::min(queue_.size(), kBatchSpans));
      batch.assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
      queue_.erase(queue_.begin(), end);
      if (batch.empty() && stopping_) return;
    }
    if (!batch.empty()) Send(client, batch);
  }
}

bool Tracer::WaitToTry(absl::Duration wait, absl::Time batch_end) {
  MutexLock lock(mutex_);
  const absl::Time until = std::min(absl::Now() + wait, batch_end);
  for (absl::Time now = absl::Now(); now < std::min(until, stop_by_); now = absl::Now()) {
    changed_.WaitFor(mutex_, std::min(until, stop_by_) - now);
  }
  return absl::Now() < std::min(batch_end, stop_by_);
}

void Tracer::Send(OtlpClient& client, const std::vector<Span>& batch) {
  const std::string body = client.Encode(batch);
  const absl::Time batch_end = absl::Now() + kBatchAgeMax;
  Backoff backoff(kRetryFirst, kRetryMax);
  absl::Duration wait;
  while (true) {
    if (!WaitToTry(wait, batch_end)) return dropped_.Add(kUnreachable, batch.size());
    const OtlpClient::Outcome outcome = client.Post(body);
    if (outcome.status.ok()) {
      const uint64_t refused = std::min<uint64_t>(outcome.rejected_spans, batch.size());
      sent_.fetch_add(batch.size() - refused, std::memory_order_relaxed);
      dropped_.Add(kRefused, refused);
      if (std::exchange(failing_, false)) log_.Info("traces_sent_again", {{"otlp", options_.otlp}});
      return;
    }
    failures_.fetch_add(1, std::memory_order_relaxed);
    if (!std::exchange(failing_, true)) log_.Warn("traces_not_sent", {{"otlp", options_.otlp}, {"why", outcome.status.message()}});
    if (!absl::IsUnavailable(outcome.status)) return dropped_.Add(kRefused, batch.size());
    wait = std::max(backoff.Next(), outcome.retry_after);
  }
}

void Tracer::Fill(MetricsPage& page) const {
  page.Counter("stemcache_trace_spans_sent_total", "Spans that the collector took", static_cast<double>(sent_.load()));
  page.Counters("stemcache_trace_spans_dropped_total", "Spans that it did not get, by why; the work that they are of was not slowed", "reason",
                dropped_);
  page.Counter("stemcache_trace_send_failures_total", "Posts of spans that failed; most are tried again", static_cast<double>(failures_.load()));
  page.Counter("stemcache_trace_contexts_ignored_total", "Callers' traceparents that are not W3C's", static_cast<double>(ignored_.load()));
  MutexLock lock(mutex_);
  page.Gauge("stemcache_trace_queued_spans", "Spans that wait to be sent", static_cast<double>(queue_.size()));
}

}  // namespace stem
