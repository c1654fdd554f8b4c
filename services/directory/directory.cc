#include "services/directory/directory.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "services/console/access_token.h"
#include "services/console/console.h"
#include "services/directory/directory_service.h"
#include "services/directory/operator_service.h"
#include "services/runtime/clock.h"
#include "services/runtime/listen.h"
#include "services/runtime/metrics.h"

namespace stem {
namespace {

constexpr int kKeepaliveMillis = 10'000;          // of silence, then a ping
constexpr int kKeepalivePatienceMillis = 60'000;  // for its answer; membership notices silence long before

absl::Status CheckRange(absl::string_view flag, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", value, " is out of range; it must be ", min, " to ", max));
}

absl::StatusOr<HostPort> CheckAddress(absl::string_view flag, const std::string& text, const DirectoryConfig& config,
                                      Logger& log) {
  absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (!address.ok()) return absl::InvalidArgumentError(absl::StrCat(flag, ": ", address.status().message()));
  STEM_TRY(CheckListenAddress(flag, *address, config.insecure_allow_remote, log));
  return address;
}

struct Checked {
  HostPort listen;
  HostPort http;
};

absl::StatusOr<Checked> Check(const DirectoryConfig& config, Logger& log) {
  STEM_TRY(CheckRange("--heartbeat-ms", config.heartbeat_ms, 10, 10'000));
  STEM_TRY(CheckRange("--stale-ms-max", config.stale_ms_max, 100, 60'000));
  STEM_TRY(CheckRange("--ghosts-max", config.ghosts_max, 0, 1'000'000'000));
  STEM_TRY(CheckRange("--index-bytes-max", config.index_bytes_max, 64ULL << 20, 64ULL << 30));
  if (config.ghosts_max * 8 > config.index_bytes_max / 2) {
    return absl::InvalidArgumentError(absl::StrCat("--ghosts-max: ", config.ghosts_max, " ghosts of 8 bytes take more than half of ",
                                                   "--index-bytes-max, ", config.index_bytes_max, "; lower it or raise that"));
  }
  if (config.stale_ms_max < config.heartbeat_ms) {
    return absl::InvalidArgumentError(absl::StrCat("--stale-ms-max: ", config.stale_ms_max,
                                                   " is below --heartbeat-ms, ", config.heartbeat_ms,
                                                   "; it must be at least that"));
  }
  STEM_ASSIGN(HostPort listen, CheckAddress("--listen", config.listen, config, log));
  STEM_ASSIGN(HostPort http, CheckAddress("--http", config.http, config, log));
  if (config.admin && !IsLoopback(http)) {
    return absl::InvalidArgumentError(absl::StrCat("--admin: --http is '", config.http, "'; a console that takes orders is on loopback alone"));
  }
  if (config.admin && !config.console) return absl::InvalidArgumentError("--admin: orders are given in the console, and --console is false");
  STEM_TRY(CheckFleetOptions(config.fleet));
  STEM_TRY(CheckTracingOptions(config.tracing));
  if (!config.fleet.etcd.empty() && (listen.host == "0.0.0.0" || listen.host == "::")) {
    return absl::InvalidArgumentError(absl::StrCat("--listen: '", config.listen, "' is every address; nodes must be told one by etcd: ",
                                                   "use this host's own"));
  }
  if (config.secret_file.empty() && config.fleet.etcd.empty()) {
    return absl::InvalidArgumentError(
        "--secret-file is not set; name a file of 32 bytes or more that all members share");
  }
  return Checked{.listen = std::move(listen), .http = std::move(http)};
}

}  // namespace

absl::Status CheckConfig(const DirectoryConfig& config, Logger& log) {
  STEM_TRY(Check(config, log).status());
  return config.secret_file.empty() ? absl::OkStatus() : ClusterSecret::Read(config.secret_file, log).status();
}

// Members in the order in which they need each other; destroyed in reverse.
struct Directory::Running {
  Running(const DirectoryConfig& config, Checked checked, ClusterSecret shared, Logger& logger)
      : log(logger),
        address(std::move(checked.listen)),
        http_address(std::move(checked.http)),
        secret(std::move(shared)),
        keep_every(absl::Milliseconds(config.heartbeat_ms) / 2),
        started(MonotonicNow()),
        index({.bytes_max = config.index_bytes_max, .ghosts_max = config.ghosts_max}),
        membership(index, {.heartbeat = absl::Milliseconds(config.heartbeat_ms),
                           .stale_max = absl::Milliseconds(config.stale_ms_max),
                           .started = started}),
        intents(metrics),
        history(started),
        tracer(config.tracing, "stem-directory", address.ToString(), logger),
        service({.index = index, .membership = membership, .intents = intents, .prompts = prompts, .history = history, .secret = secret,
                 .metrics = metrics, .tracer = tracer, .log = log, .started = started}),
        operator_service({.secret = secret,
                          .sources = {.index = index, .membership = membership, .intents = intents, .prompts = prompts},
                          .history = history}),
        admin_token(config.admin ? NewAccessToken() : ""),
        with_console(config.console) {}

  absl::Status Listen();
  void Keep();

  Logger& log;
  HostPort address;
  HostPort http_address;
  const ClusterSecret secret;
  const absl::Duration keep_every;
  const absl::Time started;
  std::unique_ptr<FleetSource> fleet;
  DirectoryMetrics metrics;
  PrefixIndex index;
  Membership membership;
  IntendDesk intents;
  FleetHistory history;
  Tracer tracer;
  KnownPrompts prompts;
  DirectoryService service;
  FleetOperatorService operator_service;
  GrpcServer grpc;
  const std::string admin_token;
  const bool with_console;
  std::unique_ptr<Console> console;  // null = not wanted
  std::unique_ptr<MetricsServer> http;
  std::thread keeper;
  Mutex mutex;
  CondVar wake;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
};

absl::Status Directory::Running::Listen() {
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMillis);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepalivePatienceMillis);
  builder.RegisterService(&service);
  builder.RegisterService(&operator_service);
  STEM_ASSIGN(grpc, StartGrpcServer(builder, {address}));
  address.port = grpc.ports[0];
  if (with_console) {
    console = std::make_unique<Console>(grpc.server->InProcessChannel({}), secret,
                                        Console::Options{.admin_token = admin_token, .loopback = IsLoopback(http_address)});
  }
  MetricsOptions options{.listen = http_address,
                         .fill = [this](MetricsPage& page) {
                           AddBuildInfo(page, "stem-directory");
                           AddFleetGauges(page, fleet->health());
                           metrics.Fill(page, index.counts(), membership.Status(MonotonicNow()));
                           tracer.Fill(page);
                         },
                          .routes = [this](httplib::Server& server) { console ? console->Route(server) : Console::RouteNone(server); },
                          .threads = kConsoleThreads};
  STEM_ASSIGN(http, MetricsServer::Start(std::move(options)));
  http_address.port = http->port();
  keeper = std::thread([this] { Keep(); });
  http->SetHealth(Health::kOk);
  return absl::OkStatus();
}

// Gives up silent nodes and reclaims what they said.
void Directory::Running::Keep() {
  MutexLock lock(mutex);
  while (!stopping) {
    mutex.Unlock();
    if (const size_t lost = membership.Tick(MonotonicNow()); lost > 0) log.Warn("nodes_lost", {{"count", lost}});
    const bool more = index.Step();
    mutex.Lock();
    if (!more && !stopping) wake.WaitFor(mutex, keep_every);
  }
}

Directory::Directory(std::unique_ptr<Running> running) : running_(std::move(running)) {}

absl::StatusOr<std::unique_ptr<Directory>> Directory::Start(const DirectoryConfig& config, Logger& log) {
  STEM_ASSIGN(Checked checked, Check(config, log));
  STEM_ASSIGN(std::unique_ptr<FleetSource> fleet, OpenFleet(config.fleet, {}, log));
  STEM_ASSIGN(ClusterSecret secret, SecretOf(config.secret_file, *fleet->snapshot(), log));
  std::unique_ptr<Directory> directory(
      new Directory(std::make_unique<Running>(config, std::move(checked), std::move(secret), log)));
  directory->running_->fleet = std::move(fleet);
  STEM_TRY(directory->running_->Listen());
  directory->running_->fleet->RegisterDirectory({.name = directory->listen_address(),
                                                 .incarnation = NewIncarnation(),
                                                 .address = directory->listen_address(),
                                                 .host_id = HostId(),
                                                 .zone = config.fleet.zone});
  return directory;
}

Directory::~Directory() { Stop(absl::Seconds(1)); }

std::string Directory::listen_address() const { return running_->address.ToString(); }

std::string Directory::http_address() const { return running_->http_address.ToString(); }

const std::string& Directory::admin_token() const { return running_->admin_token; }

void Directory::Stop(absl::Duration drain_max) {
  Running& running = *running_;
  {
    MutexLock lock(running.mutex);
    if (running.stopping) return;
    running.stopping = true;
  }
  running.wake.NotifyAll();
  if (running.fleet != nullptr) running.fleet->Leave();
  if (running.http != nullptr) running.http->SetHealth(Health::kDraining);
  if (running.console != nullptr) running.console->Stop();
  if (running.grpc.server != nullptr) {
    running.service.EndStreams();
    running.grpc.server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(drain_max));
  }
  if (running.keeper.joinable()) running.keeper.join();
}

}  // namespace stem
