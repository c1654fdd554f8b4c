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
#include "services/runtime/listen.h"
#include "services/runtime/metrics_page.h"

namespace httplib {
class Server;
}

namespace stem {

// stemcache_build_info{process,version} 1.
void AddBuildInfo(MetricsPage& page, absl::string_view process);

enum class Health { kStarting, kOk, kDraining };

struct MetricsOptions {
  HostPort listen;                         // loopback already checked; port 0 = any
  std::function<void(MetricsPage&)> fill;  // the page of one scrape; may be empty. Any thread.
  std::function<void(httplib::Server&)> routes;  // what else is served; may be empty
  size_t threads = 2;                      // a scraper and someone who looks by hand
};

// GET /metrics: the page, as text. GET /healthz: 200 "ok", else 503 "starting" or "draining".
// Threads: any. The destructor waits for calls that are being answered.
class MetricsServer {
 public:
  // Errors: Unavailable names the address and why.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(MetricsOptions options);
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // Bound port.
  uint16_t port() const { return port_; }

  // kStarting until first set.
  void SetHealth(Health health) { health_.store(health); }

 private:
  explicit MetricsServer(MetricsOptions options);
  void Route();

  const MetricsOptions options_;
  const std::unique_ptr<httplib::Server> http_;
  std::atomic<Health> health_{Health::kStarting};
  uint16_t port_ = 0;
  std::thread listener_;
};

}  // namespace stem
