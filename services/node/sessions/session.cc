#include "services/node/sessions/session.h"

#include <openssl/rand.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/pool/fd_socket.h"

namespace stem {

bool AcquirePins::Put(uint32_t position, BlockPin pin) {
  MutexLock lock(mutex_);
  if (released_) return false;
  pins_[position] = std::move(pin);
  return true;
}

bool AcquirePins::released() const {
  MutexLock lock(mutex_);
  return released_;
}

void AcquirePins::SetTrace(const TraceContext& trace) {
  MutexLock lock(mutex_);
  trace_ = trace;
}

TraceContext AcquirePins::trace() const {
  MutexLock lock(mutex_);
  return trace_;
}

void AcquirePins::PutLeading(std::vector<BlockPin> pins) {
  MutexLock lock(mutex_);
  if (released_) return;  // they end after the lock
  const size_t positions = pins_.size();
  pins_ = std::move(pins);
  pins_.resize(positions);
}

bool AcquirePins::Hold(uint32_t first, std::shared_ptr<LentRun> run) {
  MutexLock lock(mutex_);
  if (released_) return false;
  lent_.push_back({.first = first, .run = std::move(run)});
  return true;
}

std::vector<BlockName> AcquirePins::MarkCorrupt(const google::protobuf::RepeatedField<uint32_t>& positions) {
  std::vector<BlockName> names;
  MutexLock lock(mutex_);
  for (const uint32_t position : positions) {
    if (position < pins_.size() && pins_[position].valid()) names.push_back(pins_[position].meta().name);
    for (const Lent& lent : lent_) {
      if (position >= lent.first && position - lent.first < lent.run->blocks().size()) lent.run->MarkCorrupt(position - lent.first);
    }
  }
  return names;
}

void AcquirePins::Release() {
  std::vector<BlockPin> ended;  // both declared before the lock: pins and leases end after it
  std::vector<Lent> returned;
  MutexLock lock(mutex_);
  released_ = true;
  ended.swap(pins_);
  returned.swap(lent_);
}

void Session::set_offers(UniqueFd socket) {
  MutexLock lock(mutex_);
  offers_ = std::move(socket);
}

void Session::Offer(const PeerLease& lease) {
  const HostPeerMemory::PeerArena& arena = lease.mapped->arenas().at(lease.reply.arena());
  v1::ArenaOffer offer;
  offer.set_node(lease.mapped->node());
  offer.mutable_arena()->set_arena(arena.offer);
  offer.mutable_arena()->set_bytes(arena.mapping.bytes().size());
  offer.mutable_arena()->set_slot_bytes(lease.reply.slot_bytes());
  offer.mutable_arena()->set_payload_offset(lease.reply.payload_offset());
  const int file = arena.file.get();
  MutexLock lock(mutex_);
  if (lease.mapped->gone() || !offers_.valid() || offered_.contains(arena.offer) || offered_.size() >= kOfferedArenasMax) return;
  if (SendFdPacket(offers_.get(), offer.SerializeAsString(), {&file, 1}).ok()) offered_[arena.offer] = false;
}

void Session::OnMapped(uint32_t arena) {
  MutexLock lock(mutex_);
  const auto it = offered_.find(arena);
  if (it != offered_.end()) it->second = true;
}

bool Session::Reads(const HostPeerMemory& memory) const {
  MutexLock lock(mutex_);
  return std::any_of(memory.arenas().begin(), memory.arenas().end(), [&](const auto& arena) {
    const auto it = offered_.find(arena.second.offer);
    return it != offered_.end() && it->second;
  });
}

void Session::Withdraw(const HostPeerMemory& memory) {
  MutexLock lock(mutex_);
  for (const auto& [id, arena] : memory.arenas()) {
    if (offered_.erase(arena.offer) == 0 || !offers_.valid()) continue;
    v1::ArenaOffer gone;
    gone.set_node(memory.node());
    gone.mutable_arena()->set_arena(arena.offer);
    (void)SendFdPacket(offers_.get(), gone.SerializeAsString(), {});  // a client that does not listen keeps it mapped
  }
}

bool Session::Open(SendToClient send) {
  MutexLock lock(mutex_);
  if (closed_ || send_) return false;
  send_ = std::move(send);
  return true;
}

void Session::Send(v1::NodeMessage message) {
  SendToClient send;
  {
    MutexLock lock(mutex_);
    if (closed_ || !send_) return;
    send = send_;
  }
  send(std::move(message));
}

absl::Status Session::MayAdd(uint64_t id) const {
  if (closed_) return absl::CancelledError("the session is closed");
  if (acquires_.contains(id) || reservations_.contains(id)) {
    return absl::InvalidArgumentError(absl::StrCat("request_id ", id, " is in use; it must be unique in the session"));
  }
  if (acquires_.size() + reservations_.size() >= kSessionCallsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the session has ", kSessionCallsMax, " acquires and reservations open, its limit"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<AcquirePins>> Session::AddAcquire(uint64_t id, size_t positions) {
  MutexLock lock(mutex_);
  STEM_TRY(MayAdd(id));
  auto pins = std::make_shared<AcquirePins>(positions);
  acquires_[id] = pins;
  return pins;
}

std::shared_ptr<AcquirePins> Session::TakeAcquire(uint64_t id) {
  MutexLock lock(mutex_);
  const auto it = acquires_.find(id);
  if (it == acquires_.end()) return nullptr;
  std::shared_ptr<AcquirePins> pins = std::move(it->second);
  acquires_.erase(it);
  return pins;
}

absl::Status Session::AddReservation(uint64_t id, ReservedChain&& chain) {
  MutexLock lock(mutex_);
  STEM_TRY(MayAdd(id));
  reservations_[id] = std::move(chain);
  return absl::OkStatus();
}

std::optional<ReservedChain> Session::TakeReservation(uint64_t id) {
  MutexLock lock(mutex_);
  const auto it = reservations_.find(id);
  if (it == reservations_.end()) return std::nullopt;
  std::optional<ReservedChain> chain = std::move(it->second);
  reservations_.erase(it);
  return chain;
}

absl::Time Session::OldestAcquire() const {
  MutexLock lock(mutex_);
  absl::Time oldest = absl::InfiniteFuture();
  for (const auto& [id, pins] : acquires_) oldest = std::min(oldest, pins->began());
  return oldest;
}

void Session::Close(Reservations& reservations) {
  absl::flat_hash_map<uint64_t, std::shared_ptr<AcquirePins>> acquires;
  absl::flat_hash_map<uint64_t, ReservedChain> reserved;
  SendToClient send;
  {
    MutexLock lock(mutex_);
    closed_ = true;
    offers_ = UniqueFd();
    acquires.swap(acquires_);
    reserved.swap(reservations_);
    std::swap(send, send_);
  }
  for (const auto& [id, pins] : acquires) pins->Release();
  for (const auto& [id, chain] : reserved) reservations.Free(chain.names, id_);
}

absl::StatusOr<SessionTable::Created> SessionTable::Create(const Space& space, ClientProcess process, std::string client_name,
                                                           uint64_t staging_bytes) {
  Created created;
  created.token.resize(16);
  if (RAND_bytes(reinterpret_cast<unsigned char*>(created.token.data()), 16) != 1) {
    return absl::InternalError("no random bytes for a session token");
  }
  MutexLock lock(mutex_);
  if (sessions_.size() >= kSessionsMax) {
    return absl::ResourceExhaustedError(absl::StrCat("this node has ", kSessionsMax, " sessions, its limit"));
  }
  if (staging_bytes_ + staging_bytes > staging_bytes_max_) {
    return absl::ResourceExhaustedError(absl::StrCat("staging of ", staging_bytes, " bytes, with ", staging_bytes_,
                                                     " in use, exceeds ", staging_bytes_max_, "; ask for less or raise --staging"));
  }
  created.session = std::make_shared<Session>(++last_id_, space, process, std::move(client_name));
  if (staging_bytes > 0) {
    STEM_ASSIGN(created.session->staging(),
                Arena::Create("stemcache-staging", staging_bytes, Arena::Sharing::kWritableByOne));
  }
  staging_bytes_ += staging_bytes;
  sessions_[created.token] = created.session;
  return created;
}

std::shared_ptr<Session> SessionTable::Find(const std::string& token) const {
  MutexLock lock(mutex_);
  const auto it = sessions_.find(token);
  return it == sessions_.end() ? nullptr : it->second;
}

void SessionTable::Close(const std::string& token) {
  std::shared_ptr<Session> session;
  {
    MutexLock lock(mutex_);
    const auto it = sessions_.find(token);
    if (it == sessions_.end()) return;
    session = std::move(it->second);
    sessions_.erase(it);
    if (session->staging().has_value()) staging_bytes_ -= session->staging()->bytes().size();
  }
  End(*session);
}

void SessionTable::End(Session& session) {
  session.Close(reservations_);
  on_close_(session.id());
}

void SessionTable::CloseAll() {
  std::map<std::string, std::shared_ptr<Session>> sessions;
  {
    MutexLock lock(mutex_);
    sessions.swap(sessions_);
    staging_bytes_ = 0;
  }
  for (const auto& [token, session] : sessions) End(*session);
}

void SessionTable::Withdraw(const HostPeerMemory& memory) {
  MutexLock lock(mutex_);
  for (const auto& [token, session] : sessions_) session->Withdraw(memory);
}

size_t SessionTable::size() const {
  MutexLock lock(mutex_);
  return sessions_.size();
}

absl::Time SessionTable::OldestAcquire() const {
  MutexLock lock(mutex_);
  absl::Time oldest = absl::InfiniteFuture();
  for (const auto& [token, session] : sessions_) oldest = std::min(oldest, session->OldestAcquire());
  return oldest;
}

uint64_t SessionTable::staging_bytes() const {
  MutexLock lock(mutex_);
  return staging_bytes_;
}

}  // namespace stem
