#include "services/node/node.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/runtime/clock.h"
#include "services/runtime/config.h"
#include "services/runtime/version.h"
#include "storage/spill/disk_spill_store.h"
#include "storage/transport/lane_probe.h"
#include "storage/transport/ucx_transport.h"

namespace stem {
namespace {

constexpr size_t kChangesKept = 1 << 20;      // a directory may be this many changes behind before it needs a snapshot
constexpr size_t kLeasesMax = 65536;
constexpr size_t kFetchesQueuedMax = 1024;
constexpr size_t kCommitsQueuedMax = 256;
constexpr absl::Duration kHousekeeping = Scrubber::kTick;
constexpr absl::Duration kDrain = absl::Seconds(2);
constexpr absl::Duration kCountersEvery = absl::Seconds(1);  // in heartbeats

// The SSD tier's index keeps files open beside the sockets; the usual soft limit of 1024 is for select(), which nothing
// here uses.
void RaiseFileLimit() {
  struct rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// What other nodes need to read this one's arenas.
v1::MemoryMap MemoryMapOf(const Transport& transport, const std::vector<std::unique_ptr<Registration>>& registrations) {
  v1::MemoryMap map;
  map.set_worker_address(transport.worker_address());
  for (size_t i = 0; i < registrations.size(); ++i) {
    v1::MemoryMap::Region* const region = map.add_regions();
    region->set_arena(static_cast<uint32_t>(i));
    region->set_base(reinterpret_cast<uint64_t>(registrations[i]->memory().data()));
    region->set_bytes(registrations[i]->memory().size());
    region->set_rkey(registrations[i]->rkey());
  }
  return map;
}

}  // namespace

Node::Node(const NodeConfig& config, ClusterSecret secret, Logger& log)
    : config_(config),
      secret_(std::move(secret)),
      log_(log),
      incarnation_(NewIncarnation()),
      started_(absl::Now()),
      metrics_(config.name, config.counts),
      tracer_(config.tracing, "stem-node", config.name, log),
      request_log_({.node = config.name, .slow = config.tracing.slow}),
      request_sinks_{.metrics = metrics_, .tracer = tracer_, .log = [this](RequestFacts facts) { request_log_.Add(std::move(facts)); }},
      directories_now_(config.directories),
      changes_(kChangesKept) {}

absl::StatusOr<std::unique_ptr<Node>> Node::Start(const NodeConfig& config, Logger& log) {
  STEM_TRY(CheckConfig(config));
  for (const auto& [flag, text] : {std::pair("--listen", config.listen), std::pair("--http", config.http)}) {
    STEM_ASSIGN(const HostPort address, ParseHostPort(text));
    STEM_TRY(CheckListenAddress(flag, address, config.insecure_allow_remote, log));
  }
  if (const std::optional<HostPort> address = ListenAddressOf(config.kv_events); address.has_value()) {
    STEM_TRY(CheckListenAddress("--kv-events", *address, config.insecure_allow_remote, log));
  }
  if (ParseHostPort(config.listen)->host == "0.0.0.0" || ParseHostPort(config.listen)->host == "::") {
    return absl::InvalidArgumentError(absl::StrCat("--listen: '", config.listen, "' is every address; peers must be told one: ",
                                                   "use this host's own"));
  }
  STEM_ASSIGN(std::unique_ptr<FleetSource> fleet, OpenFleet(config.fleet, config.directories, log));
  STEM_ASSIGN(ClusterSecret secret, SecretOf(config.secret_file, *fleet->snapshot(), log));
  std::unique_ptr<Node> node(new Node(config, std::move(secret), log));
  node->fleet_ = std::move(fleet);
  STEM_TRY(node->OpenTiers());
  STEM_TRY(node->OpenTransport());
  STEM_TRY(node->MakeParts());
  node->MakeServices();
  STEM_TRY(node->Listen());
  node->StartAnnouncers();
  node->JoinFleet();
  node->housekeeper_ = std::thread([raw = node.get()] { raw->KeepHouse(); });
  node->started_whole_ = true;
  node->ShowHealth();
  log.Info("node_ready", {{"node", config.name},
                          {"incarnation", absl::StrFormat("%016x", node->incarnation_)},
                          {"peer", node->peer_address()},
                          {"socket", config.socket},
                          {"http", node->http_address_}});
  return node;
}

Node::~Node() {
  stopping_ = true;
  if (http_ != nullptr) ShowHealth();
  if (housekeeper_.joinable()) housekeeper_.join();
  if (fleet_ != nullptr) fleet_->Leave();
  attach_.reset();
  if (sessions_ != nullptr) sessions_->CloseAll();
  if (announcers_ != nullptr) announcers_->SetDirectories({});
  request_log_.Stop();  // who follows it hangs up
  if (server_ != nullptr) {
    server_->Shutdown(absl::ToChronoTime(absl::Now() + kDrain));
    server_->Wait();
  }
  http_.reset();  // scrapes read from all that follows
  engine_follower_.reset();
  if (directories_ != nullptr) directories_->Stop();  // who waits for others goes on, and ends
  fetcher_.reset();
  publisher_.reset();
  copier_.reset();
  peer_service_.reset();
  spiller_.reset();
  if (transport_ != nullptr) transport_->Close();  // reads that outlived their fetch give up their slots
  registrations_.clear();
  transport_.reset();
  leases_.reset();
}

absl::Status Node::OpenTiers() {
  std::string registry_path;
  if (config_.ssd_bytes > 0) {
    RaiseFileLimit();
    std::error_code failed;
    std::filesystem::create_directories(config_.ssd_dir, failed);
    if (failed) {
      return absl::UnavailableError(absl::StrCat("--ssd-dir: cannot create ", config_.ssd_dir, ": ", failed.message()));
    }
    STEM_ASSIGN(std::unique_ptr<DiskSpillStore> store,
                DiskSpillStore::Open({.directory = absl::StrCat(config_.ssd_dir, "/spill"),
                                      .file_bytes_max = config_.ssd_bytes}));
    if (!store->direct_io()) log_.Warn("no_direct_io", {{"ssd_dir", config_.ssd_dir}});
    store_ = std::move(store);
    registry_path = absl::StrCat(config_.ssd_dir, "/namespaces");
  }
  STEM_ASSIGN(std::vector<TrustGroup> groups, TrustGroupsOf(config_, *fleet_->snapshot()));
  STEM_ASSIGN(const PolicyKind policy, ParsePolicy(config_.policy));
  STEM_ASSIGN(const AdmissionKind admission, ParseAdmission(config_.admission));
  STEM_ASSIGN(spaces_, SpaceTable::Create({.groups = std::move(groups),
                                           .ssd_bytes = config_.ssd_bytes,
                                           .policy = policy,
                                           .admission = admission,
                                           .registry_path = registry_path,
                                           .on_change = [this](const BlockChange& change) { changes_.Append(change); },
                                           .on_leave = [this](const BlockLeft& left) {
                                             departures_.Remember(left, MonotonicNow());
                                             metrics_.CountLeft(left);
                                           },
                                           .on_space = [this](const Space& space) { prompts_.Add(space); }},
                                          std::vector<uint8_t>(secret_.bytes().begin(), secret_.bytes().end())));
  return store_ != nullptr ? RestoreSpilled() : absl::OkStatus();
}

absl::Status Node::RestoreSpilled() {
  std::vector<SpillRecordId> unknown;
  size_t restored = 0;
  const absl::Status read = store_->ForEach([&](const BlockMeta& meta) {
    const Space* const space = spaces_->Find(meta.name.space);
    if (space == nullptr || !SpillCodec::MayBeOf(meta, space->spec)) {
      unknown.push_back({meta.name, meta.generation});
      return;
    }
    space->pool().Restore(meta);
    ++restored;
  });
  if (absl::IsDataLoss(read)) {
    log_.Error("spill_index_damaged", {{"why", read.message()}});  // the rest is good
  } else {
    STEM_TRY(read);
  }
  for (BlockPool* pool : spaces_->pools()) {
    const std::vector<SpillRecordId> orphans = pool->FinishRestore();
    unknown.insert(unknown.end(), orphans.begin(), orphans.end());
  }
  log_.Info("spill_restored", {{"blocks", restored}, {"dropped", unknown.size()}, {"bytes", store_->stats().live_bytes}});
  return unknown.empty() ? absl::OkStatus() : store_->Remove(unknown);
}

absl::Status Node::OpenTransport() {
  STEM_ASSIGN(const HostPort listen, ParseHostPort(config_.listen));
  const bool loopback = IsLoopback(listen);
  const UcxOptions ucx{.tls = config_.ucx_tls,
                       .loopback_only = loopback,
                       .listen_host = loopback ? "127.0.0.1" : listen.host};
  STEM_ASSIGN(const std::vector<LaneProbe> lanes, ProbeLanes(ucx));
  for (const LaneProbe& lane : lanes) {
    if (!lane.status.ok()) {
      log_.Warn("lane_failed", {{"lane", lane.lane}, {"why", lane.status.message()}});
      continue;
    }
    log_.Info("lane_probed", {{"lane", lane.lane},
                              {"latency_us", absl::ToInt64Microseconds(lane.latency)},
                              {"bytes_per_second", static_cast<uint64_t>(lane.bytes_per_second)},
                              {"memory_types", absl::StrJoin(lane.memory_types, ",")}});
  }
  if (const absl::Status fast = CheckLanes(lanes, config_.lane_min_bytes_per_second); !fast.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("--lane-min-bytes-per-second: ", fast.message()));
  }
  STEM_ASSIGN(transport_, UcxTransport::Create({.ucx = ucx}));
  log_.Info("transport_open", {{"lanes", transport_->description()}});
  for (const auto& memory : spaces_->memories()) {
    STEM_ASSIGN(std::unique_ptr<Registration> registration, transport_->Register(memory->arena.bytes(), MemoryPlace::kHost));
    registrations_.push_back(std::move(registration));
  }
  return absl::OkStatus();
}

absl::Status Node::MakeParts() {
  announcers_ = std::make_unique<Announcers>(changes_, *spaces_, secret_, log_);
  directories_ = std::make_unique<DirectoryStub>(
      DirectoryStub::Options{.requester = config_.name,
                             .authorize = [this](grpc::ClientContext& context) { secret_.AddToken(context); },
                             .host = ParseHostPort(config_.listen)->host});
  STEM_TRY(directories_->SetDirectories(config_.directories));
  single_flight_ = std::make_unique<SingleFlight>(*directories_, metrics_);
  sessions_ = std::make_unique<SessionTable>(reservations_, config_.staging_bytes,
                                             [this](uint64_t session) { single_flight_->GiveUp(session); });
  leases_ = std::make_unique<LeaseTable>(kLeasesMax);
  promoter_ = std::make_unique<Promoter>(store_.get(), metrics_, log_);
  scrubber_ = std::make_unique<Scrubber>(config_.scrub_period, *spaces_, *promoter_, metrics_);
  host_peers_ = std::make_unique<HostPeers>(
      config_.map_host_peers ? HostId() : "", [this](const HostPeerMemory& gone) { sessions_->Withdraw(gone); }, secret_, log_);
  peers_ = std::make_unique<Peers>(config_.name, secret_, *transport_, *host_peers_);
  lent_runs_ = std::make_unique<LentRuns>(*peers_, peer_reports_);
  copier_ = std::make_unique<Copier>(Copier::Options{}, *lent_runs_, metrics_, log_);
  demand_ = std::make_unique<Demand>(*spaces_, config_.ssd_bytes);
  if (!config_.kv_events.endpoint.empty()) {
    engine_follower_ = std::make_unique<EngineFollower>(config_.kv_events, *spaces_,
                                                        [this](const BlockChange& change) { changes_.Append(change); }, log_);
  }
  return absl::OkStatus();
}

void Node::MakeServices() {
  fetcher_ = std::make_unique<Fetcher>(Fetcher::Parts{.directories = *directories_,
                                                      .peers = *peers_,
                                                      .host_peers = *host_peers_,
                                                      .lent_runs = *lent_runs_,
                                                      .copier = *copier_,
                                                      .rates = rates_,
                                                      .promoter = *promoter_,
                                                      .transport = *transport_,
                                                      .registrations = registrations_,
                                                      .reservations = reservations_,
                                                      .single_flight = *single_flight_,
                                                      .peer_reports = peer_reports_,
                                                      .sinks = request_sinks_,
                                                      .metrics = metrics_,
                                                      .demand = *demand_,
                                                      .log = log_},
                                       config_.fetch_threads, kFetchesQueuedMax);
  publisher_ = std::make_unique<Publisher>(Publisher::Parts{.reservations = reservations_,
                                                            .copier = *copier_,
                                                            .drain = drain_,
                                                            .metrics = metrics_,
                                                            .sinks = request_sinks_,
                                                            .latest = latest_publish_,
                                                            .prompts = prompts_},
                                           config_.reservation_max, config_.copy_threads, kCommitsQueuedMax);
  node_service_ = std::make_unique<NodeService>(NodeService::Parts{.sessions = *sessions_,
                                                                   .fetcher = *fetcher_,
                                                                   .publisher = *publisher_,
                                                                   .promoter = *promoter_,
                                                                   .tracer = tracer_,
                                                                   .metrics = metrics_,
                                                                   .secret = secret_,
                                                                   .status = [this] { return Status(); }});
  peer_service_ = std::make_unique<PeerService>(
      PeerService::Parts{.spaces = *spaces_,
                         .leases = *leases_,
                         .promoter = *promoter_,
                         .metrics = metrics_,
                         .sinks = request_sinks_,
                         .secret = secret_},
      PeerService::Options{.incarnation = incarnation_, .memory = MemoryMapOf(*transport_, registrations_), .lease = config_.lease});
  levers_ = std::make_unique<Levers>(Levers::Parts{.spaces = *spaces_,
                                                   .promoter = *promoter_,
                                                   .kept = kept_,
                                                   .drain = drain_,
                                                   .sessions = *sessions_,
                                                   .leases = *leases_,
                                                   .log = log_,
                                                   .on_drain = [this](bool) { ShowHealth(); }});
  operator_service_ = std::make_unique<NodeOperatorService>(NodeOperatorService::Parts{.secret = secret_,
                                                                                   .node = config_.name,
                                                                                   .spaces = *spaces_,
                                                                                   .departures = departures_,
                                                                                   .requests = request_log_,
                                                                                   .demand = *demand_,
                                                                                   .levers = *levers_});
  if (store_ != nullptr) spiller_ = std::make_unique<Spiller>(*spaces_, *store_, latest_publish_, request_sinks_, log_);
}

absl::Status Node::Listen() {
  STEM_ASSIGN(const HostPort listen, ParseHostPort(config_.listen));
  STEM_ASSIGN(const HostPort http, ParseHostPort(config_.http));
  // First, as a call may change what it shows.
  STEM_ASSIGN(http_, MetricsServer::Start({.listen = http, .fill = [this](MetricsPage& page) { FillMetrics(page); }}));
  http_address_ = HostPort{http.host, http_->port()}.ToString();
  grpc::ServerBuilder builder;
  builder.RegisterService(node_service_.get());
  builder.RegisterService(peer_service_.get());
  builder.RegisterService(operator_service_.get());
  STEM_ASSIGN(GrpcServer started, StartGrpcServer(builder, {listen}, {config_.socket}));
  server_ = std::move(started.server);
  chmod(config_.socket.c_str(), 0666);  // sessions open with a token that only the attach socket gives
  {
    MutexLock lock(mutex_);
    peer_address_ = HostPort{listen.host, started.ports[0]}.ToString();
  }
  STEM_ASSIGN(attach_, AttachServer::Start({.path = absl::StrCat(config_.socket, ".attach"),
                                            .node = config_.name,
                                            .incarnation = incarnation_,
                                            .drain = drain_},
                                           *spaces_, *sessions_, secret_, log_));
  return absl::OkStatus();
}

void Node::ShowHealth() {
  MutexLock lock(mutex_);
  const bool draining = stopping_ || drain_.on();
  http_->SetHealth(draining ? Health::kDraining : started_whole_ ? Health::kOk : Health::kStarting);
}

std::string Node::peer_address() const {
  MutexLock lock(mutex_);
  return peer_address_;
}

void Node::StartAnnouncers() {
  v1::Hello hello;
  hello.mutable_node()->set_node(config_.name);
  hello.mutable_node()->set_incarnation(incarnation_);
  hello.mutable_node()->set_peer_address(peer_address());
  hello.mutable_node()->set_host_id(HostId());
  hello.mutable_node()->set_attach_path(absl::StrCat(config_.socket, ".attach"));
  for (const auto& memory : spaces_->memories()) hello.set_dram_bytes(hello.dram_bytes() + memory->group.dram_bytes);
  hello.set_ssd_bytes(config_.ssd_bytes);
  announcers_->Introduce({.hello = std::move(hello),
                          .heartbeat = config_.heartbeat,
                          .usage_of_a_stream = [this] {
                            return [this, tell = peer_reports_.NewTeller(), told = PublishedPrompts::Told(),
                                    counted = absl::InfinitePast()](bool begins) mutable {
                              v1::Heartbeat usage = Usage();
                              tell(usage);
                              if (begins) told = {};
                              prompts_.Tell(&told, usage);
                              if (const absl::Time now = absl::Now(); now - counted >= kCountersEvery) {
                                *usage.mutable_counters() = Counted();
                                counted = now;
                              }
                              return usage;
                            };
                          },
                          .engine_cache = [this](const EngineBlocks::OnChange& each) {
                            if (engine_follower_ != nullptr) engine_follower_->Snapshot(each);
                          }});
  announcers_->SetDirectories(config_.directories);
}

absl::Status Node::SetDirectories(const std::vector<std::string>& directories) {
  STEM_TRY(CheckDirectories(directories));
  STEM_TRY(directories_->SetDirectories(directories));
  announcers_->SetDirectories(directories);
  log_.Info("directories_set", {{"directories", absl::StrJoin(directories, ",")}});
  return absl::OkStatus();
}

void Node::JoinFleet() {
  const FleetMember self{.name = config_.name,
                         .incarnation = incarnation_,
                         .address = peer_address(),
                         .host_id = HostId(),
                         .zone = config_.fleet.zone};
  fleet_->RegisterNode(self);
  fleet_->Follow([this, self](const std::shared_ptr<const FleetSnapshot>& fleet) { OnFleet(*fleet, self); });
}

void Node::OnFleet(const FleetSnapshot& fleet, const FleetMember& self) {
  const std::vector<std::string> nearest = NearestDirectories(fleet, self);
  if (nearest != directories_now_) {
    if (const absl::Status set = SetDirectories(nearest); set.ok()) {
      directories_now_ = nearest;
    } else {
      log_.Warn("directories_refused", {{"why", set.message()}});
    }
  }
  const std::vector<std::string> later = spaces_->Settle(fleet, /*tenants=*/config_.groups.empty() && fleet.revision > 0);
  if (later == settled_later_) return;
  settled_later_ = later;
  for (const std::string& what : later) log_.Warn("needs_restart", {{"what", what}});
}

void Node::KeepHouse() {
  while (!stopping_) {
    const absl::Time now = absl::Now();
    metrics_.CountExpired("lease", leases_->Expire(now));
    metrics_.CountExpired("reservation", reservations_.Expire(now));
    host_peers_->KeepHouse();
    lent_runs_->KeepHouse();
    kept_.Expire(now);
    scrubber_->Step(now);
    absl::SleepFor(kHousekeeping);
  }
}

v1::Heartbeat Node::Usage() const {
  v1::Heartbeat usage;
  usage.set_reads_active(static_cast<uint32_t>(leases_->size()));
  usage.set_draining(drain_.on());
  for (const BlockPool* pool : spaces_->pools()) {
    const BlockPool::Stats stats = pool->stats();
    usage.set_dram_bytes_used(usage.dram_bytes_used() + (pool->slots() - stats.slots_free) * pool->geometry().slot_bytes);
    usage.set_ssd_bytes_used(usage.ssd_bytes_used() + stats.ssd_bytes);
  }
  return usage;
}

v1::NodeCounters Node::Counted() const {
  v1::NodeCounters counted = metrics_.Counters();
  for (const auto& memory : spaces_->memories()) {
    v1::NodeCounters::Tenant* tenant = nullptr;
    for (v1::NodeCounters::Tenant& each : *counted.mutable_tenants()) {
      if (each.tenant() == memory->group.name) tenant = &each;
    }
    if (tenant != nullptr) tenant->set_dram_bytes(memory->group.dram_bytes);
    if (memory->pool == nullptr) continue;
    const BlockPool::Stats stats = memory->pool->stats();
    if (tenant != nullptr) {
      tenant->set_dram_bytes_used((memory->pool->slots() - stats.slots_free) * memory->pool->geometry().slot_bytes);
    }
    counted.set_blocks_evicted(counted.blocks_evicted() + stats.evicted);
    counted.set_orphan_blocks(counted.orphan_blocks() + stats.orphans);
  }
  return counted;
}

v1::NodeStatusReply Node::Status() const {
  v1::NodeStatusReply status;
  status.mutable_address()->set_node(config_.name);
  status.mutable_address()->set_incarnation(incarnation_);
  status.mutable_address()->set_peer_address(peer_address());
  status.set_version(std::string(kVersion));
  status.set_uptime_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(absl::Now() - started_)));
  for (const auto& memory : spaces_->memories()) {
    v1::NodeStatusReply::Arena* const arena = status.add_arenas();
    arena->set_group(memory->group.name);
    arena->set_bytes(memory->group.dram_bytes);
    const SpaceTable::Quota quota = spaces_->QuotaOf(*memory);
    arena->set_bytes_max(quota.dram_bytes);
    arena->set_ssd_bytes_max(quota.ssd_bytes);
    if (memory->pool == nullptr) continue;
    const BlockPool::Stats stats = memory->pool->stats();
    arena->set_slot_bytes(memory->pool->geometry().slot_bytes);
    arena->set_ssd_bytes_used(stats.ssd_bytes);
    arena->set_bytes_kept(stats.slots_kept * arena->slot_bytes());
    arena->set_slots(memory->pool->slots());
    arena->set_slots_free(stats.slots_free);
    arena->set_slots_pinned(stats.slots_pinned);
    status.set_blocks_dram(status.blocks_dram() + stats.blocks_dram);
    status.set_blocks_ssd(status.blocks_ssd() + stats.blocks_ssd);
    status.set_ssd_bytes_used(status.ssd_bytes_used() + stats.ssd_bytes);
    status.set_pins(status.pins() + stats.pins);
  }
  status.set_ssd_bytes(config_.ssd_bytes);
  status.set_sessions(sessions_->size());
  status.set_leases(leases_->size());
  status.set_reservations(reservations_.size());
  status.set_staging_bytes(sessions_->staging_bytes());
  status.set_integrity_failures(metrics_.integrity_failures());
  status.set_sequence(changes_.sequence());
  for (v1::NodeStatusReply::Stream& stream : announcers_->Status()) *status.add_streams() = std::move(stream);
  status.set_draining(drain_.on());
  for (v1::NodeStatusReply::Link& link : metrics_.Links()) *status.add_links() = std::move(link);
  for (v1::NodeStatusReply::EncodedSpill& spilled : metrics_.Encoded()) *status.add_encoded_spills() = std::move(spilled);
  return status;
}

std::string Node::ReadyJson() const {
  return nlohmann::json{{"node", config_.name},
                        {"incarnation", absl::StrFormat("%016x", incarnation_)},
                        {"socket", config_.socket},
                        {"peer", peer_address()},
                        {"http", http_address_},
                        {"pid", getpid()}}
      .dump();
}

}  // namespace stem
