// What one Reserve got: the node's word on each position, and the staging to write them to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/reservation.h"
#include "client/session.h"
#include "client/session_memory.h"
#include "proto/status.h"

namespace stem {

// Threads: built on the session's reader, then its owner's. Its destruction frees the staging; without a Commit, it
// abandons.
struct ReservationState {
  // Takes staging for the leading wanted positions of `message`, an answer to a Reserve of `blocks` blocks in `parts`.
  // Errors: InvalidArgument (validation refuses the message).
  static absl::StatusOr<std::shared_ptr<ReservationState>> Create(const std::shared_ptr<Session>& session,
                                                                  const v1::NodeMessage& message, uint32_t blocks,
                                                                  const std::vector<uint32_t>& parts);
  ReservationState(const std::shared_ptr<Session>& reserved_in, uint64_t id)
      : session(reserved_in), memory(reserved_in->memory()), reserve_id(id) {}
  ~ReservationState();
  ReservationState(const ReservationState&) = delete;
  ReservationState& operator=(const ReservationState&) = delete;

  v1::Commit ToCommit() const;

  const std::weak_ptr<Session> session;
  const std::shared_ptr<SessionMemory> memory;
  const uint64_t reserve_id;
  bool commit_sent = false;
  std::vector<WantedPayload> wanted;
  uint32_t held = 0;
  uint32_t being_published = 0;
  uint32_t refused = 0;
  std::string reason;
  uint64_t staging_bytes_missing = 0;

 private:
  void Take(const v1::Reserved& message, const std::vector<uint32_t>& parts);
};

}  // namespace stem
