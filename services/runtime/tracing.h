// Traces: which are kept, and how their spans reach an OpenTelemetry collector (OTLP over HTTP, protobuf). Whoever works hands in spans that
// have ended and never waits: a queue of bounded length, and a thread that sends from it. A collector that is slow or gone costs spans,
// which are counted, and nothing else.
//
// What is kept: traces that the caller's traceparent says are sampled, and of those that begin here a share (`sample`); of all others the
// spans of whoever finds its own part slow or failed, and what peers have parked for it (Park, KeepParked).
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/trace_context.h"
#include "services/runtime/log.h"
#include "services/runtime/metrics_page.h"

namespace grpc {
class CallbackServerContext;
class ClientContext;
}  // namespace grpc

namespace stem {

class OtlpClient;

struct TracingOptions {
  std::string otlp;                // http://host:port[/path] of the collector; empty = nothing is sent
  double sample = 0.01;            // share of the traces that begin here, 0..1
  absl::Duration slow = absl::Milliseconds(500);  // what takes longer is kept, sampled or not; zero = no such rule
};

// --otlp, --trace-sample, --trace-slow.
void AddOptions(CLI::App& app, TracingOptions& options);
// Errors: InvalidArgument naming the flag.
absl::Status CheckTracingOptions(const TracingOptions& options);

enum class SpanKind { kInternal, kServer, kClient };

// A span that has ended.
struct Span {
  using Value = std::variant<int64_t, bool, std::string>;

  const char* name = "";                // a literal
  TraceContext self;                    // its own id
  uint64_t parent = 0;                  // 0 = a root
  SpanKind kind = SpanKind::kInternal;
  absl::Time begin;
  absl::Time end;
  std::vector<std::pair<const char*, Value>> attributes;  // keys are literals
  std::string error;                    // why it failed; empty = it did not
};

// Threads: any.
class Tracer {
 public:
  // Spans that wait to be sent, and that are parked. A span takes about half a KiB.
  static constexpr size_t kQueuedMax = 8192;
  static constexpr size_t kParkedMax = 4096;

  // `service`: "stem-node". `instance`: unique among its kind. `log`: borrowed. Warns when spans leave this host. `options` are checked.
  Tracer(const TracingOptions& options, std::string service, std::string instance, Logger& log);
  // Sends what is queued, for two seconds; a post that hangs then, for as long as its own limits are.
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Whether there is a collector. Without one traces that begin elsewhere are passed on, and none begins here.
  bool on() const { return !options_.otlp.empty(); }

  // The caller's context. Garbage is counted, and none.
  TraceContext Read(absl::string_view traceparent);
  TraceContext Read(const grpc::CallbackServerContext& context);
  static void Write(const TraceContext& trace, grpc::ClientContext& context);

  // The context of a span of ours under `caller`; with none that is valid, the first of a new trace.
  TraceContext Begin(const TraceContext& caller);
  // Of a span under `parent`, by its number there.
  static TraceContext Child(const TraceContext& parent, uint64_t number);

  bool IsSlow(absl::Duration time) const { return options_.slow > absl::ZeroDuration() && time >= options_.slow; }

  // Takes spans to send, or drops them.
  void Keep(std::vector<Span> spans);
  // Keeps the spans, of one trace that is not sampled, for a while: whoever works on its request may yet find it worth it.
  void Park(std::vector<Span> spans);
  void KeepParked(const TraceContext& trace);

  // stemcache_trace_*.
  void Fill(MetricsPage& page) const;

 private:
  enum Drop { kQueueFull, kUnreachable, kRefused };

  void Run();
  // Until the collector took the batch or refused it, or it has grown old.
  void Send(OtlpClient& client, const std::vector<Span>& batch);
  // False when there is no time left to try.
  bool WaitToTry(absl::Duration wait, absl::Time batch_end);
  uint64_t NewId();

  const TracingOptions options_;
  const std::string service_;
  const std::string instance_;
  Logger& log_;
  std::atomic<uint64_t> ids_;
  std::atomic<uint64_t> sent_{0};
  std::atomic<uint64_t> failures_{0};  // of posts
  std::atomic<uint64_t> ignored_{0};   // traceparents
  CounterSet dropped_;                 // by Drop
  bool failing_ = false;               // of the thread: so that a dead collector is told of once
  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Span> queue_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::vector<Span>> parked_ ABSL_GUARDED_BY(mutex_);  // oldest first
  size_t parked_spans_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time stop_by_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::thread thread_;
};

}  // namespace stem
