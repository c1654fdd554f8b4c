#include "tests/support/loopback_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/status.h"
#include "storage/transport/envelope.h"

namespace stem {
namespace {

constexpr size_t kPieceBytes = 100'000;  // that land at a time; no multiple of anything

}  // namespace

// ---- LoopbackFabric

void LoopbackFabric::Hold() {
  MutexLock lock(mutex_);
  held_ = true;
}

void LoopbackFabric::Release() {
  MutexLock lock(mutex_);
  held_ = false;
  changed_.NotifyAll();
}

void LoopbackFabric::FailNextOps(size_t count, absl::Status status) {
  STEM_CHECK(!status.ok());
  MutexLock lock(mutex_);
  faults_.insert(faults_.end(), count, Fault{.failure = std::move(status)});
}

void LoopbackFabric::CorruptNextOps(size_t count) {
  MutexLock lock(mutex_);
  faults_.insert(faults_.end(), count, Fault{.corrupt = true});
}

void LoopbackFabric::SetDelay(absl::Duration delay) {
  MutexLock lock(mutex_);
  delay_ = delay;
}

void LoopbackFabric::Kill(const std::string& worker_address) {
  const auto owner = Unseal(EnvelopeKind::kMessageAddress, worker_address);
  STEM_CHECK(owner.ok());
  MutexLock lock(mutex_);
  killed_.emplace(owner->data(), owner->size());
  changed_.NotifyAll();
}

std::string LoopbackFabric::Join() {
  MutexLock lock(mutex_);
  return absl::StrCat("loopback-", next_id_++);
}

std::string LoopbackFabric::Offer(const std::string& owner, std::span<std::byte> memory) {
  MutexLock lock(mutex_);
  std::string rkey = absl::StrCat("region-", next_id_++);
  regions_.emplace(rkey, Offered{owner, memory});
  return rkey;
}

void LoopbackFabric::Withdraw(const std::string& rkey) {
  MutexLock lock(mutex_);
  regions_.erase(rkey);
}

bool LoopbackFabric::alive(const std::string& owner) {
  MutexLock lock(mutex_);
  return !killed_.contains(owner);
}

void LoopbackFabric::Interrupt() {
  MutexLock lock(mutex_);
  changed_.NotifyAll();
}

bool LoopbackFabric::Travel(const std::string& owner, absl::Time deadline, const std::atomic<bool>& stopping) {
  MutexLock lock(mutex_);
  const absl::Time arrival = absl::Now() + delay_;
  for (;;) {
    if (stopping || killed_.contains(owner)) return true;
    const absl::Time now = absl::Now();
    if (now >= deadline) return false;
    if (!held_ && now >= arrival) return true;
    changed_.WaitFor(mutex_, (held_ ? deadline : std::min(arrival, deadline)) - now);
  }
}

absl::StatusOr<std::vector<std::byte>> LoopbackFabric::Copy(const std::string& owner, const RemoteRegion& region,
                                                            const ReadOp& op) {
  const auto token = Unseal(EnvelopeKind::kMessageRegion, region.rkey);
  STEM_TRY(token.status());
  MutexLock lock(mutex_);
  if (killed_.contains(owner)) return absl::UnavailableError("peer lost: it was killed");
  Fault fault;
  if (!faults_.empty()) {
    fault = std::move(faults_.front());
    faults_.pop_front();
  }
  STEM_TRY(fault.failure);
  const auto offered = regions_.find(std::string(token->data(), token->size()));
  if (offered == regions_.end() || offered->second.owner != owner) {
    return absl::NotFoundError("the owner refused the read");
  }
  const std::span<std::byte> memory = offered->second.memory;
  if (op.offset > memory.size() || op.destination.size() > memory.size() - op.offset) {
    return absl::OutOfRangeError("the owner refused the read");
  }
  const auto bytes = memory.subspan(op.offset, op.destination.size());
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  if (fault.corrupt) copy[0] ^= std::byte{1};
  return copy;
}

// ---- LoopbackTransport

class LoopbackTransport::LoopbackPeer : public RemotePeer {
 public:
  LoopbackPeer(LoopbackFabric& fabric, std::string owner, PeerMemory memory)
      : RemotePeer(std::move(memory)), fabric_(fabric), owner_(std::move(owner)) {}
  bool lost() const override { return !fabric_.alive(owner_); }
  const std::string& owner() const { return owner_; }

 private:
  LoopbackFabric& fabric_;
  const std::string owner_;
};

class LoopbackTransport::LoopbackRegistration : public Registration {
 public:
  LoopbackRegistration(LoopbackFabric& fabric, const std::string& owner, std::span<std::byte> memory)
      : fabric_(fabric), memory_(memory), token_(fabric.Offer(owner, memory)),
        rkey_(Seal(EnvelopeKind::kMessageRegion, token_)) {}
  ~LoopbackRegistration() override { fabric_.Withdraw(token_); }
  std::span<std::byte> memory() const override { return memory_; }
  MemoryPlace place() const override { return MemoryPlace::kHost; }
  const std::string& rkey() const override { return rkey_; }

 private:
  LoopbackFabric& fabric_;
  const std::span<std::byte> memory_;
  const std::string token_;
  const std::string rkey_;
};

LoopbackTransport::LoopbackTransport(LoopbackFabric& fabric, size_t ops_queued_max)
    : fabric_(fabric), ops_queued_max_(ops_queued_max), address_(fabric.Join()),
      sealed_address_(Seal(EnvelopeKind::kMessageAddress, address_)), thread_([this] { Main(); }) {}

LoopbackTransport::~LoopbackTransport() { Close(); }

void LoopbackTransport::Close() {
  {
    MutexLock lock(mutex_);
    if (stopping_.exchange(true)) return;
    changed_.NotifyAll();
  }
  fabric_.Interrupt();
  thread_.join();
}

absl::StatusOr<std::unique_ptr<Registration>> LoopbackTransport::Register(std::span<std::byte> memory, MemoryPlace place) {
  if (stopping_) return absl::FailedPreconditionError("the transport is closed");
  if (memory.empty()) return absl::InvalidArgumentError("cannot register 0 bytes of memory");
  if (place == MemoryPlace::kGpu) return absl::UnimplementedError("GPU memory cannot be registered: memcpy moves host memory");
  return std::make_unique<LoopbackRegistration>(fabric_, address_, memory);
}

absl::StatusOr<std::shared_ptr<RemotePeer>> LoopbackTransport::Connect(const PeerMemory& memory, absl::Time deadline) {
  if (stopping_) return absl::FailedPreconditionError("the transport is closed");
  if (absl::Now() >= deadline) return absl::DeadlineExceededError("the deadline to connect has already passed");
  STEM_ASSIGN(const absl::string_view owner, Unseal(EnvelopeKind::kMessageAddress, memory.worker_address));
  for (const RemoteRegion& region : memory.regions) {
    STEM_TRY(Unseal(EnvelopeKind::kMessageRegion, region.rkey).status());
  }
  MutexLock lock(mutex_);
  std::erase_if(peers_, [](const auto& peer) { return peer->lost(); });
  for (const auto& peer : peers_) {
    if (peer->memory() == memory) return peer;
  }
  peers_.push_back(std::make_shared<LoopbackPeer>(fabric_, std::string(owner), memory));
  return peers_.back();
}

absl::Status LoopbackTransport::Read(std::shared_ptr<RemotePeer> peer, std::vector<ReadOp> ops, absl::Time deadline,
                                     ReadCallbacks callbacks) {
  auto own_peer = std::dynamic_pointer_cast<LoopbackPeer>(std::move(peer));
  if (own_peer == nullptr) return absl::InvalidArgumentError("read of a peer that this transport did not connect");
  STEM_TRY(CheckReadOps(*own_peer, ops));
  if (absl::Now() >= deadline) return absl::DeadlineExceededError("the read's deadline has already passed");
  if (own_peer->lost()) return absl::UnavailableError("peer lost; connect again");
  MutexLock lock(mutex_);
  if (stopping_) return absl::FailedPreconditionError("the transport is closed");
  if (counters_.ops_queued + ops.size() > ops_queued_max_) {
    ++counters_.reads_refused;
    return absl::ResourceExhaustedError(absl::StrCat("at most ", ops_queued_max_, " read ops can be queued"));
  }
  counters_.ops_queued += ops.size();
  ++counters_.reads;
  queue_.push_back({std::move(own_peer), std::move(ops), deadline, std::move(callbacks)});
  changed_.NotifyAll();
  return absl::OkStatus();
}

void LoopbackTransport::Main() {
  for (;;) {
    Pending read;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
      if (queue_.empty()) return;
      read = std::move(queue_.front());
      queue_.pop_front();
    }
    Serve(read);
  }
}

void LoopbackTransport::Serve(Pending& read) {
  absl::Status outcome;
  for (size_t i = 0; i < read.ops.size(); ++i) {
    const absl::Status status = ServeOp(read, i);
    if (status.ok()) {
      ++counters_.ops_landed;
      counters_.bytes_read += read.ops[i].destination.size();
    } else {
      ++counters_.ops_failed;
      if (absl::IsDeadlineExceeded(status)) ++counters_.ops_expired;
      if (outcome.ok()) outcome = status;
    }
    --counters_.ops_queued;
    if (read.callbacks.on_op) read.callbacks.on_op(i, status);
  }
  read.callbacks.on_safe(outcome);
}

absl::Status LoopbackTransport::ServeOp(const Pending& read, size_t op) {
  if (!fabric_.Travel(read.peer->owner(), read.deadline, stopping_)) {
    return absl::DeadlineExceededError("the read's deadline passed before its bytes came");
  }
  if (stopping_) return absl::CancelledError("the transport is being closed");
  std::span<std::byte> to = read.ops[op].destination;
  STEM_ASSIGN(const std::vector<std::byte> bytes,
              fabric_.Copy(read.peer->owner(), *read.peer->Find(read.ops[op].arena), read.ops[op]));
  for (std::span<const std::byte> from = bytes; !from.empty();) {
    const size_t piece = std::min(kPieceBytes, from.size());
    if (read.callbacks.land) {
      read.callbacks.land(op, to.first(piece), from.first(piece));
    } else {
      std::memcpy(to.data(), from.data(), piece);
    }
    to = to.subspan(piece);
    from = from.subspan(piece);
  }
  return absl::OkStatus();
}

}  // namespace stem
