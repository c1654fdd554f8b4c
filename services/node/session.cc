#include "services/node/session.h"

#include <openssl/rand.h>

#include <utility>

#include "absl/strings/str_cat.h"

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

std::vector<BlockName> AcquirePins::NamesAt(const google::protobuf::RepeatedField<uint32_t>& positions) const {
  std::vector<BlockName> names;
  MutexLock lock(mutex_);
  for (uint32_t position : positions) {
    if (position < pins_.size() && pins_[position].valid()) names.push_back(pins_[position].meta().name);
  }
  return names;
}

void AcquirePins::Release() {
  std::vector<BlockPin> ended;  // declared before the lock: pins end after it
  MutexLock lock(mutex_);
  released_ = true;
  ended.swap(pins_);
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

absl::Status Session::AddReservation(uint64_t id, ReservedChain chain) {
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

void Session::Close(Reservations& reservations) {
  absl::flat_hash_map<uint64_t, std::shared_ptr<AcquirePins>> acquires;
  absl::flat_hash_map<uint64_t, ReservedChain> reserved;
  SendToClient send;
  {
    MutexLock lock(mutex_);
    closed_ = true;
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

size_t SessionTable::size() const {
  MutexLock lock(mutex_);
  return sessions_.size();
}

uint64_t SessionTable::staging_bytes() const {
  MutexLock lock(mutex_);
  return staging_bytes_;
}

}  // namespace stem
