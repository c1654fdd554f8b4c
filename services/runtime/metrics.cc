#include "services/runtime/metrics.h"

#include <sys/socket.h>

#include "absl/strings/str_cat.h"
#include "httplib.h"
#include "proto/status.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

constexpr time_t kKeepAliveSeconds = 1;        // an idle connection holds one of the threads
constexpr size_t kRequestBytesMax = 64 << 10;  // nothing here takes a body

}  // namespace

void AddBuildInfo(MetricsPage& page, absl::string_view process) {
  page.Gauge("stemcache_build_info", "Always 1; the labels say what runs here", 1,
             {{"process", std::string(process)}, {"version", std::string(kVersion)}});
}

MetricsServer::MetricsServer(MetricsOptions options)
    : options_(std::move(options)), http_(std::make_unique<httplib::Server>()) {}

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(MetricsOptions options) {
  const HostPort listen = options.listen;
  if (listen.port != 0) STEM_TRY(ProbeBind(listen));
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(options)));
  httplib::Server& http = *server->http_;
  http.new_task_queue = [threads = server->options_.threads] { return new httplib::ThreadPool(threads); };
  http.set_keep_alive_timeout(kKeepAliveSeconds);
  http.set_read_timeout(5);
  http.set_write_timeout(5);
  http.set_payload_max_length(kRequestBytesMax);
  // Not the library's default, SO_REUSEPORT, under which a second process would share the port in silence.
  http.set_socket_options([](int fd) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  server->Route();
  if (server->options_.routes) server->options_.routes(http);
  int port = listen.port;
  if (listen.port == 0) {
    port = http.bind_to_any_port(listen.host);
  } else if (!http.bind_to_port(listen.host, listen.port)) {
    port = -1;
  }
  if (port <= 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", listen.ToString()));
  server->port_ = static_cast<uint16_t>(port);
  server->listener_ = std::thread([&http] { http.listen_after_bind(); });
  // stop() before the loop runs would be forgotten.
  while (!http.is_running()) std::this_thread::yield();
  return server;
}

void MetricsServer::Route() {
  http_->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    MetricsPage page;
    if (options_.fill) options_.fill(page);
    response.set_content(page.ToText(), "text/plain; version=0.0.4; charset=utf-8");
  });
  http_->Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
    const Health health = health_.load();
    response.status = health == Health::kOk ? 200 : 503;
    response.set_content(health == Health::kOk ? "ok\n" : health == Health::kStarting ? "starting\n" : "draining\n",
                         "text/plain");
  });
}

MetricsServer::~MetricsServer() {
  if (!listener_.joinable()) return;
  http_->stop();
  listener_.join();
}

}  // namespace stem
