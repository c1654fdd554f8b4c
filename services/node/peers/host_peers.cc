#include "services/node/peers/host_peers.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/wire_status.h"
#include "storage/pool/fd_socket.h"

namespace stem {
namespace {

constexpr absl::Duration kAttachMax = absl::Milliseconds(500);
constexpr absl::Duration kPrefaultPerTurn = absl::Milliseconds(20);  // of 100: who fetches needs the processor more
constexpr absl::Duration kRetryAfter = absl::Seconds(10);

}  // namespace

bool HostPeerMemory::Covers(const v1::LeaseReply& lease) const {
  const auto arena = arenas_.find(lease.arena());
  if (arena == arenas_.end()) return false;
  const uint64_t slots = arena->second.mapping.bytes().size() / lease.slot_bytes();
  const uint64_t block_bytes_max = lease.slot_bytes() - lease.payload_offset();
  return std::all_of(lease.slots().begin(), lease.slots().end(), [&](uint32_t slot) { return slot < slots; }) &&
         std::all_of(lease.lengths().begin(), lease.lengths().end(), [&](uint32_t length) { return length <= block_bytes_max; });
}

SlotView<const std::byte> HostPeerMemory::slot(const v1::LeaseReply& lease, int index) const {
  const std::span<const std::byte> arena = arenas_.at(lease.arena()).mapping.bytes();
  return {arena.subspan(lease.slots(index) * lease.slot_bytes(), lease.slot_bytes()),
          SlotGeometry{.payload_offset = lease.payload_offset(), .slot_bytes = lease.slot_bytes()}};
}

std::shared_ptr<const HostPeerMemory> HostPeers::MemoryOf(const v1::NodeAddress& address, absl::Time deadline) {
  if (host_id_.empty() || address.host_id() != host_id_ || address.attach_path().empty()) return nullptr;
  const absl::Time now = absl::Now();
  {
    MutexLock lock(mutex_);
    Known& known = known_[address.node()];
    if (known.incarnation == address.incarnation()) return known.memory;
    if (known.memory != nullptr) {
      if (!HasEnded(known)) return nullptr;  // it lives: whoever named another incarnation is behind
      LetGo(*known.memory);
    }
    known = Known{.incarnation = address.incarnation(), .retry = now + kRetryAfter};
  }
  absl::StatusOr<Known> attached = Attach(address, std::min(deadline, now + kAttachMax));
  if (!attached.ok()) {
    log_.Warn("host_peer_not_mapped", {{"peer", address.node()}, {"why", attached.status().message()}});
    return nullptr;
  }
  log_.Info("host_peer_mapped", {{"peer", address.node()}});
  const std::shared_ptr<const HostPeerMemory> memory = attached->memory;
  MutexLock lock(mutex_);
  Known& known = known_[address.node()];
  if (known.incarnation == address.incarnation()) {
    known = *std::move(attached);
  } else {
    memory->MarkGone();  // good for this lease; nobody would hear of its end
  }
  return memory;
}

absl::StatusOr<HostPeers::Known> HostPeers::Attach(const v1::NodeAddress& address, absl::Time deadline) {
  const auto left = [&] { return deadline - absl::Now(); };
  Known known{.incarnation = address.incarnation()};
  STEM_ASSIGN(known.socket, ConnectFdSocket(address.attach_path(), left));
  v1::AttachRequest request;
  request.set_protocol(kAttachProtocol);
  request.set_host_peer_token(secret_.HostPeerToken(address.incarnation()));
  STEM_TRY(SendFdPacket(known.socket.get(), request.SerializeAsString(), {}));
  STEM_ASSIGN(FdPacket packet, ReceiveFdPacket(known.socket.get(), kAttachMessageBytesMax, kAttachArenasMax, left));
  v1::AttachReply reply;
  if (!reply.ParseFromString(packet.bytes)) return absl::InternalError("the peer's answer is no AttachReply");
  if (reply.code() != 0) return FromCode(reply.code(), reply.message());
  STEM_ASSIGN(const HostPeerGrant grant, ValidateHostPeerReply(reply, packet.fds.size()));
  if (grant.incarnation != address.incarnation()) return absl::AbortedError("another incarnation listens there now");
  std::map<uint32_t, HostPeerMemory::PeerArena> arenas;
  for (size_t i = 0; i < grant.arenas.size(); ++i) {
    HostPeerMemory::PeerArena& arena = arenas[grant.arenas[i].arena()];
    arena.file = std::move(packet.fds[i]);
    STEM_ASSIGN(arena.mapping, Mapping::Create(arena.file.get(), grant.arenas[i].bytes(), Mapping::Access::kReadOnly));
    arena.offer = next_offer_.fetch_add(1);
  }
  known.memory = std::make_shared<HostPeerMemory>(address.node(), std::move(arenas));
  return known;
}

void HostPeers::KeepHouse() {
  DropDead();
  PrefaultSome();
}

// Without the lock, which lookups take: a share takes milliseconds.
void HostPeers::PrefaultSome() {
  std::vector<Unfaulted> waiting;
  {
    MutexLock lock(mutex_);
    for (const auto& [node, known] : known_) {
      if (known.memory != nullptr) waiting.push_back({.node = node, .memory = known.memory, .first = known.prefaulted_bytes});
    }
  }
  const absl::Time until = absl::Now() + kPrefaultPerTurn;
  for (const Unfaulted& each : waiting) {
    size_t before = 0;  // bytes of the arenas that are done
    size_t now = each.first;
    for (const auto& [id, arena] : each.memory->arenas()) {
      while (absl::Now() < until && now < before + arena.mapping.bytes().size()) now = before + arena.mapping.PrefaultFrom(now - before);
      before += arena.mapping.bytes().size();
      if (now < before) break;
    }
    MutexLock lock(mutex_);
    const auto known = known_.find(each.node);
    if (known != known_.end() && known->second.memory == each.memory) known->second.prefaulted_bytes = now;
  }
}

bool HostPeers::HasEnded(const Known& known) {
  char byte = 0;
  const ssize_t got = recv(known.socket.get(), &byte, sizeof(byte), MSG_DONTWAIT | MSG_PEEK);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

void HostPeers::LetGo(const HostPeerMemory& memory) const {
  memory.MarkGone();
  on_gone_(memory);
}

void HostPeers::DropDead() {
  MutexLock lock(mutex_);
  std::erase_if(known_, [this, now = absl::Now()](const auto& each) {
    const Known& known = each.second;
    if (known.memory == nullptr) return now >= known.retry;
    const bool ended = HasEnded(known);
    if (ended) LetGo(*known.memory);
    return ended;
  });
}

}  // namespace stem
