// The HTTP side of a daemon: Prometheus metrics and health, on threads of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "services/runtime/listen.h"

namespace httplib {
class Server;
}

namespace stem {

// Boundaries for every latency histogram, in seconds: 1 us to 10 s, three a decade, so that histograms of
// different steps of one request can be laid over each other.
prometheus::Histogram::BucketBoundaries LatencyBuckets();

// stemcache_build_info{process,version} 1.
void AddBuildInfo(prometheus::Registry& registry, absl::string_view process);

enum class Health { kStarting, kOk, kDraining };

struct MetricsOptions {
  HostPort listen;                        // loopback already checked; port 0 = any
  std::function<void()> refresh;          // sets gauges just before each scrape; may be empty. Any thread.
};

// GET /metrics: text format of `registry`. GET /healthz: 200 "ok", else 503 "starting" or "draining".
// Threads: any. The destructor waits for calls that are being answered.
class MetricsServer {
 public:
  // `registry` must outlive the server. Errors: Unavailable names the address and why.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(MetricsOptions options,
                                                              const prometheus::Registry& registry);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // Bound port.
  uint16_t port() const { return port_; }

  // kStarting until first set.
  void SetHealth(Health health) { health_.store(health); }

 private:
  MetricsServer(MetricsOptions options, const prometheus::Registry& registry);
  void Route();

  const MetricsOptions options_;
  const prometheus::Registry& registry_;
  const std::unique_ptr<httplib::Server> http_;
  std::atomic<Health> health_{Health::kStarting};
  uint16_t port_ = 0;
  std::thread listener_;
};

}  // namespace stem
