#include "storage/transport/ucx_core.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/check.h"
#include "proto/status.h"
#include "storage/transport/envelope.h"
#include "storage/transport/get_reader.h"

namespace stem {
namespace {

constexpr size_t kRequestersMax = 256;
constexpr size_t kArrivalsMax = 65536;
constexpr size_t kMessagesInFlightMax = 16;
constexpr uint64_t kStreamingBytesMin = 1 << 20;  // on the wire: a few glances' worth, so that small reads do not wait for one
constexpr auto kDrainStep = std::chrono::milliseconds(1);
constexpr auto kShutDownMax = std::chrono::seconds(2);
constexpr unsigned kProgressPerStepMax = 64;  // then commands and deadlines have their turn

uint64_t Draw(std::random_device& device) { return uint64_t{device()} << 32 | device(); }

absl::Status Closed() { return absl::FailedPreconditionError("the transport is closed"); }

// Refuses a map whose regions overlap in name or wrap around the address space.
absl::Status CheckRegions(const PeerMemory& memory) {
  constexpr size_t kRegionsMax = 64;
  if (memory.regions.size() > kRegionsMax) {
    return absl::InvalidArgumentError(absl::StrCat("peer names ", memory.regions.size(), " regions; at most ",
                                                   kRegionsMax));
  }
  absl::flat_hash_set<uint32_t> seen;
  for (const RemoteRegion& region : memory.regions) {
    if (region.bytes == 0 || region.base == 0 || region.base > UINT64_MAX - region.bytes) {
      return absl::InvalidArgumentError(absl::StrCat("peer's arena ", region.arena, " of ", region.bytes, " bytes at ",
                                                     region.base, " is no range of addresses"));
    }
    if (!seen.insert(region.arena).second) {
      return absl::InvalidArgumentError(absl::StrCat("peer names arena ", region.arena, " twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<UcxCore>> UcxCore::Create(ConfiguredUcx ucx, Limits limits,
                                                         TransportCounters& counters) {
  STEM_ASSIGN(UcxWorker worker, CreateWorker(ucx.context.get()));
  std::unique_ptr<UcxCore> core(new UcxCore(std::move(ucx), std::move(worker), limits, counters));
  STEM_TRY(core->Open());
  return core;
}

UcxCore::UcxCore(ConfiguredUcx ucx, UcxWorker worker, Limits limits, TransportCounters& counters)
    : ucx_(std::move(ucx)), limits_(limits), counters_(counters), worker_(std::move(worker)) {}

absl::Status UcxCore::Open() {
  std::random_device device;
  random_.seed(Draw(device));
  STEM_ASSIGN(wake_fd_, WorkerEventFd(worker_.get()));
  const MessageServer::Limits limits{.message_bytes_max = limits_.message_bytes_max,
                                     .requesters_max = kRequestersMax,
                                     // Room for as many again that their requester has given up.
                                     .requests_queued_max = 2 * limits_.windows.peer_ops_max,
                                     .arrivals_max = kArrivalsMax,
                                     .messages_in_flight_max = kMessagesInFlightMax};
  STEM_ASSIGN(server_, MessageServer::Start(worker_.get(), limits_.listen_host, ucx_.reads_by_messages, limits,
                                            counters_));
  sealed_address_ = Seal(address_kind(), server_->address());
  const auto ended = [this](OpId op, const absl::Status& status) { scheduler_->Ended(op, status); };
  if (ucx_.reads_by_messages) {
    const auto land = [this](OpId op, std::span<std::byte> to, std::span<const std::byte> from) {
      scheduler_->Land(op, to, from);
    };
    auto reader = std::make_unique<MessageReader>(worker_.get(), links_, land, ended);
    message_reader_ = reader.get();
    wire_ = std::move(reader);
  } else {
    wire_ = std::make_unique<GetReader>(links_, ended);
  }
  scheduler_ = std::make_unique<ReadScheduler>(limits_.windows, *wire_, counters_, Draw(device) >> 1);
  return absl::OkStatus();
}

UcxCore::~UcxCore() {
  if (worker_ != nullptr) TearDown();
}

void UcxCore::TearDown() {
  links_.clear();
  closing_.clear();
  if (server_ != nullptr) server_->DetachAll();
  worker_.reset();  // from here on nothing writes any destination
  server_.reset();
  if (scheduler_ != nullptr) scheduler_->LoseAll(absl::CancelledError("the transport was closed"), true);
}

EnvelopeKind UcxCore::address_kind() const {
  return ucx_.reads_by_messages ? EnvelopeKind::kMessageAddress : EnvelopeKind::kGetAddress;
}

EnvelopeKind UcxCore::region_kind() const {
  return ucx_.reads_by_messages ? EnvelopeKind::kMessageRegion : EnvelopeKind::kGetRegion;
}

absl::StatusOr<std::unique_ptr<UcxCore::Region>> UcxCore::AddRegion(std::span<std::byte> memory, MemoryPlace place) {
  if (worker_ == nullptr) return Closed();
  if (place == MemoryPlace::kGpu && !ucx_.moves_gpu_memory()) {
    return absl::UnimplementedError(absl::StrCat("GPU memory cannot be registered: UCX ", ucp_get_version_string(), " moves ",
                                                 absl::StrJoin(ucx_.memory_types, " "), " over its lanes; want a CUDA-aware "
                                                 "UCX (STEM_UCX_ROOT) and lanes for it"));
  }
  auto region = std::make_unique<Region>();
  if (ucx_.reads_by_messages) {
    std::random_device device;  // the token is what a peer must know to read the region
    region->token = Draw(device);
    region->rkey = Seal(EnvelopeKind::kMessageRegion,
                        {reinterpret_cast<const char*>(&region->token), sizeof region->token});
    server_->Offer(region->token, memory, place);
    return region;
  }
  STEM_ASSIGN(UcxMemory mapped, UcxMemory::Map(ucx_.context.get(), memory, place));
  STEM_ASSIGN(const std::string packed, mapped.PackRemoteKey());
  region->rkey = Seal(EnvelopeKind::kGetRegion, packed);
  region->memory.emplace(std::move(mapped));
  return region;
}

void UcxCore::RemoveRegion(std::unique_ptr<Region> region, std::function<void()> removed) {
  if (server_ != nullptr && ucx_.reads_by_messages) {
    server_->Withdraw(region->token, std::move(removed));
    return;
  }
  region.reset();
  removed();
}

absl::StatusOr<std::shared_ptr<UcxPeer>> UcxCore::Connect(const PeerMemory& memory) {
  if (worker_ == nullptr) return Closed();
  for (const auto& [id, link] : links_) {
    if (link->peer->memory() == memory) return link->peer;
  }
  STEM_TRY(CheckRegions(memory));
  STEM_ASSIGN(const absl::string_view address, Unseal(address_kind(), memory.worker_address));
  STEM_TRY(MakeRoom());
  auto link = std::make_unique<UcxLink>();
  link->peer = std::make_shared<UcxPeer>(next_peer_++, memory);
  link->nonce = random_();
  for (const RemoteRegion& region : memory.regions) {  // before the endpoint: a damaged one should not open a connection
    STEM_ASSIGN(const absl::string_view packed, Unseal(region_kind(), region.rkey));
    if (!ucx_.reads_by_messages) continue;  // GetReader unpacks it
    if (packed.size() != sizeof(uint64_t)) {
      return absl::InvalidArgumentError(absl::StrCat("region token of ", packed.size(), " bytes; want 8"));
    }
    std::memcpy(&link->tokens[region.arena], packed.data(), packed.size());
  }
  STEM_ASSIGN(link->endpoint, UcxEndpoint::Connect(worker_.get(), address, endpoint_failures_));
  ++counters_.endpoints_open;
  const std::shared_ptr<UcxPeer> peer = link->peer;
  links_.emplace(peer->id(), std::move(link));
  return peer;
}

absl::Status UcxCore::MakeRoom() {
  if (links_.size() < limits_.peers_max) return absl::OkStatus();
  for (const auto& [id, link] : links_) {
    // Held by nobody but the cache, which a node that has gone leaves behind.
    if (link->peer.use_count() == 1 && scheduler_->on_wire(id) == 0) {
      CloseLink(id, absl::UnavailableError("dropped for a newer peer"));
      return absl::OkStatus();
    }
  }
  return absl::ResourceExhaustedError(absl::StrCat(limits_.peers_max, " peers are connected and in use; no more are"));
}

void UcxCore::Submit(const std::shared_ptr<UcxPeer>& peer, std::vector<ReadOp> ops, SteadyTime deadline,
                     ReadCallbacks callbacks) {
  const bool gone = !ops.empty() && !links_.contains(peer->id());
  scheduler_->Submit(peer->id(), std::move(ops), deadline, std::move(callbacks));
  if (gone) scheduler_->Lose(peer->id(), absl::UnavailableError("peer lost before the read began"));
}

void UcxCore::CloseLink(PeerId id, const absl::Status& why) {
  auto node = links_.extract(id);
  std::unique_ptr<UcxLink> link = std::move(node.mapped());
  link->peer->MarkLost();
  --counters_.endpoints_open;
  ++counters_.endpoints_lost;
  scheduler_->Lose(id, why);
  link->endpoint->StartClose();
  closing_.push_back(std::move(link));
}

void UcxCore::DropFailed() {
  if (std::exchange(endpoint_failures_, 0) == 0) return;
  std::vector<PeerId> failed;
  for (const auto& [id, link] : links_) {
    if (!link->endpoint->failure().ok()) failed.push_back(id);
  }
  for (const PeerId id : failed) CloseLink(id, links_.at(id)->endpoint->failure());
}

void UcxCore::Expire() {
  const SteadyTime now = std::chrono::steady_clock::now();
  if (now < scheduler_->NextDeadline()) return;
  for (const PeerId id : scheduler_->Expire(now)) {
    const auto link = links_.find(id);
    if (link == links_.end()) continue;
    if (message_reader_ == nullptr) {
      CloseLink(id, absl::UnavailableError("its endpoint was closed, as a one-sided read missed its deadline"));
    } else if (const auto& since = link->second->silent_since;
               since && now - *since >= absl::ToChronoMilliseconds(limits_.silence_max)) {
      CloseLink(id, absl::UnavailableError(absl::StrCat("peer silent for more than ",
                                                        absl::FormatDuration(limits_.silence_max))));
    }
  }
}

void UcxCore::Reap() {
  std::erase_if(closing_, [this](const auto& link) {
    return link->endpoint->Closed() && scheduler_->on_wire(link->peer->id()) == 0;
  });
  const bool requesters_closed = server_->Reap();
  draining_ = !closing_.empty() || !requesters_closed;
  if (!shut_down_) return;
  draining_ = true;
  const bool sends_ended = message_reader_ == nullptr || message_reader_->sends_in_flight() == 0;
  const bool drained = closing_.empty() && requesters_closed && sends_ended && scheduler_->idle();
  if (drained || std::chrono::steady_clock::now() >= shut_down_limit_) {
    TearDown();
    draining_ = false;
    std::exchange(shut_down_, nullptr)();
  }
}

void UcxCore::ShutDown(std::function<void()> done) {
  while (!links_.empty()) CloseLink(links_.begin()->first, absl::CancelledError("the transport is being closed"));
  scheduler_->LoseAll(absl::CancelledError("the transport is being closed"), false);
  server_->DropAll();
  shut_down_ = std::move(done);
  shut_down_limit_ = std::chrono::steady_clock::now() + kShutDownMax;
}

bool UcxCore::Step() {
  if (worker_ == nullptr) return false;
  unsigned progressed = 0;
  while (progressed < kProgressPerStepMax && ucp_worker_progress(worker_.get()) != 0) ++progressed;
  DropFailed();
  const bool served = server_->Pump();
  Expire();
  const bool issued = scheduler_->Issue() > 0;
  Reap();
  return progressed > 0 || served || issued || (endpoint_failures_ > 0 && worker_ != nullptr);
}

bool UcxCore::Arm() {
  // Any other answer than OK means that events came since the last progress, or that nothing would wake us.
  return worker_ == nullptr || ucp_worker_arm(worker_.get()) == UCS_OK;
}

bool UcxCore::Streaming() const {
  if (worker_ == nullptr || message_reader_ == nullptr) return false;
  return counters_.bytes_in_flight >= kStreamingBytesMin || server_->replying();
}

SteadyTime UcxCore::NextDeadline() const {
  const SteadyTime next = scheduler_->NextDeadline();
  return draining_ ? std::min(next, std::chrono::steady_clock::now() + kDrainStep) : next;
}

}  // namespace stem
