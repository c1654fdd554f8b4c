#include "storage/transport/ucx_transport.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {
namespace {

constexpr size_t kRegistrationsMax = 256;

// Passed once, by the progress thread.
class Gate {
 public:
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    opened_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(mutex_);
    while (!open_) opened_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar opened_;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

// Deadlines are durations on a steady clock inside; the wall clock may step.
SteadyTime ToSteady(absl::Duration left) {
  return std::chrono::steady_clock::now() + absl::ToChronoMicroseconds(std::min(left, absl::Hours(24)));
}

}  // namespace

class UcxTransport::UcxRegistration : public Registration {
 public:
  UcxRegistration(UcxTransport& transport, std::span<std::byte> memory, MemoryPlace place,
                  std::unique_ptr<UcxCore::Region> region)
      : transport_(transport), memory_(memory), place_(place), rkey_(region->rkey), region_(std::move(region)) {
    ++transport_.registrations_;
  }
  ~UcxRegistration() override {
    auto removed = std::make_shared<Gate>();
    const absl::Status ran = transport_.loop_->Run([this, removed] {
      transport_.core_->RemoveRegion(std::move(region_), [removed] { removed->Open(); });
    });
    STEM_CHECK(ran.ok());
    removed->Wait();
    --transport_.registrations_;
  }
  std::span<std::byte> memory() const override { return memory_; }
  MemoryPlace place() const override { return place_; }
  const std::string& rkey() const override { return rkey_; }
  bool BelongsTo(const UcxTransport& transport) const { return &transport == &transport_; }

 private:
  UcxTransport& transport_;
  const std::span<std::byte> memory_;
  const MemoryPlace place_;
  const std::string rkey_;
  std::unique_ptr<UcxCore::Region> region_;
};

absl::StatusOr<std::unique_ptr<UcxTransport>> UcxTransport::Create(const Options& options) {
  if (options.commands_max == 0 || options.ops_queued_max == 0 || options.peers_max == 0 ||
      options.peer_ops_in_flight_max == 0) {
    return absl::InvalidArgumentError("transport limits commands_max, ops_queued_max, peers_max and "
                                      "peer_ops_in_flight_max must be at least 1");
  }
  STEM_ASSIGN(ConfiguredUcx ucx, ConfigureUcx(options.ucx));
  std::unique_ptr<UcxTransport> transport(new UcxTransport(options, ucx.description));
  const UcxCore::Limits limits{.windows = {.peer_bytes_max = options.peer_bytes_in_flight_max,
                                           .peer_ops_max = options.peer_ops_in_flight_max,
                                           .total_bytes_max = options.bytes_in_flight_max},
                               .peers_max = options.peers_max,
                               .silence_max = options.silence_max,
                               .message_bytes_max = options.ucx.segment_bytes,
                               .listen_host = options.ucx.listen_host};
  STEM_ASSIGN(transport->core_, UcxCore::Create(std::move(ucx), limits, transport->counters_));
  STEM_ASSIGN(transport->loop_, ProgressLoop::Start(*transport->core_, options.commands_max));
  if (options.on_thread_start) STEM_TRY(transport->loop_->Run(options.on_thread_start));
  return transport;
}

UcxTransport::~UcxTransport() {
  STEM_CHECK(registrations_ == 0);
  if (loop_ != nullptr) Close();  // null: Create failed half-way
}

void UcxTransport::Close() {
  if (closed_.exchange(true)) return;
  auto closed = std::make_shared<Gate>();
  const absl::Status ran = loop_->Run([this, closed] { core_->ShutDown([closed] { closed->Open(); }); });
  STEM_CHECK(ran.ok());
  closed->Wait();
}

absl::StatusOr<std::unique_ptr<Registration>> UcxTransport::Register(std::span<std::byte> memory, MemoryPlace place) {
  if (memory.empty()) return absl::InvalidArgumentError("cannot register 0 bytes of memory");
  if (registrations_ >= kRegistrationsMax) {
    return absl::ResourceExhaustedError(absl::StrCat(kRegistrationsMax, " memories are registered; no more can be"));
  }
  absl::StatusOr<std::unique_ptr<UcxCore::Region>> region = nullptr;
  STEM_TRY(loop_->Run([&] { region = core_->AddRegion(memory, place); }));
  STEM_TRY(region.status());
  return std::make_unique<UcxRegistration>(*this, memory, place, *std::move(region));
}

absl::StatusOr<std::shared_ptr<RemotePeer>> UcxTransport::Connect(const PeerMemory& memory, absl::Time deadline) {
  absl::StatusOr<std::shared_ptr<UcxPeer>> peer = nullptr;
  STEM_TRY(loop_->Run([&] { peer = core_->Connect(memory); }, deadline));
  return peer;
}

absl::Status UcxTransport::Read(std::shared_ptr<RemotePeer> peer, std::vector<ReadOp> ops, absl::Time deadline,
                                ReadCallbacks callbacks) {
  STEM_CHECK(callbacks.on_safe != nullptr);
  auto own_peer = std::dynamic_pointer_cast<UcxPeer>(std::move(peer));
  if (own_peer == nullptr) return absl::InvalidArgumentError("read of a peer that this transport did not connect");
  STEM_TRY(CheckReadOps(*own_peer, ops));
  for (size_t i = 0; i < ops.size(); ++i) {
    const auto* registration = dynamic_cast<const UcxRegistration*>(ops[i].registration);
    if (registration == nullptr || !registration->BelongsTo(*this)) {
      return absl::InvalidArgumentError(absl::StrCat("read op ", i, ": its destination is not registered here"));
    }
    if (registration->place() == MemoryPlace::kGpu && callbacks.land == nullptr && core_->reads_by_messages()) {
      return absl::InvalidArgumentError(absl::StrCat("read op ", i, ": its destination is on a GPU, and reads here go by "
                                                     "messages: want ReadCallbacks::land"));
    }
  }
  if (closed_) return absl::FailedPreconditionError("the transport is closed");
  const absl::Duration left = deadline - absl::Now();
  if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the read's deadline has already passed");
  if (own_peer->lost()) return absl::UnavailableError("peer lost; connect again");

  const size_t count = ops.size();
  if (const uint64_t queued = counters_.ops_queued += count; queued > options_.ops_queued_max) {
    counters_.ops_queued -= count;
    ++counters_.reads_refused;
    return absl::ResourceExhaustedError(absl::StrCat(queued, " read ops would be queued; at most ",
                                                     options_.ops_queued_max));
  }
  const absl::Status posted =
      loop_->Post([this, own_peer = std::move(own_peer), ops = std::move(ops), due = ToSteady(left),
                   callbacks = std::move(callbacks)]() mutable {
        core_->Submit(own_peer, std::move(ops), due, std::move(callbacks));
      });
  if (!posted.ok()) {
    counters_.ops_queued -= count;
    ++counters_.reads_refused;
    return posted;
  }
  ++counters_.reads;
  return absl::OkStatus();
}

}  // namespace stem
