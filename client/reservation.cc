#include "client/reservation.h"

#include "absl/strings/str_cat.h"
#include "client/reservation_state.h"
#include "proto/validate_replies.h"

namespace stem {

absl::StatusOr<std::shared_ptr<ReservationState>> ReservationState::Create(const std::shared_ptr<Session>& session,
                                                                           const v1::NodeMessage& message,
                                                                           uint32_t blocks,
                                                                           const std::vector<uint32_t>& parts) {
  const uint32_t positions = blocks * static_cast<uint32_t>(parts.size());
  auto state = std::make_shared<ReservationState>(session, message.request_id());
  if (!message.has_reserved()) return absl::InvalidArgumentError("a Reserve was answered with another kind of message");
  STEM_TRY(ValidateReserved(message.reserved(), positions));
  state->held = message.reserved().held();
  state->being_published = message.reserved().being_published();
  state->refused = message.reserved().refused();
  state->reason = message.reserved().reason();
  state->Take(message.reserved(), parts);
  return state;
}

void ReservationState::Take(const v1::Reserved& message, const std::vector<uint32_t>& parts) {
  uint32_t uncovered = 0;
  for (const v1::Reserved::Run& run : message.wanted()) {
    for (uint32_t position = run.first(); position < run.first() + run.count(); ++position) {
      const uint32_t part = parts[position % parts.size()];
      const uint64_t bytes = memory->spec().part(part)->block_bytes;
      // A chain is published from its front: behind the first payload without memory, none is of use.
      const std::optional<uint64_t> offset = uncovered == 0 ? memory->allocator().Allocate(bytes) : std::nullopt;
      if (!offset.has_value()) {
        ++uncovered;
        staging_bytes_missing += bytes;
        continue;
      }
      wanted.push_back({.position = position,
                        .block = position / static_cast<uint32_t>(parts.size()),
                        .part = part,
                        .staging = memory->staging().subspan(*offset, bytes)});
    }
  }
  if (uncovered == 0) return;
  refused += uncovered;
  absl::StrAppend(&reason, reason.empty() ? "" : "; ", "staging of ", memory->staging().size(), " bytes lacks ",
                  staging_bytes_missing, " bytes for ", uncovered, " wanted payloads");
}

ReservationState::~ReservationState() {
  if (!commit_sent) {
    if (const std::shared_ptr<Session> live = session.lock()) live->Abandon(reserve_id);
  }
  for (const WantedPayload& each : wanted) {
    memory->allocator().Free(static_cast<uint64_t>(each.staging.data() - memory->staging().data()),
                             each.staging.size());
  }
}

v1::Commit ReservationState::ToCommit() const {
  v1::Commit commit;
  commit.set_reserve_id(reserve_id);
  for (const WantedPayload& each : wanted) {
    commit.add_positions(each.position);
    commit.add_staging_offsets(static_cast<uint64_t>(each.staging.data() - memory->staging().data()));
  }
  return commit;
}

std::span<const WantedPayload> Reservation::wanted() const { return state_->wanted; }
uint32_t Reservation::held() const { return state_->held; }
uint32_t Reservation::being_published() const { return state_->being_published; }
uint32_t Reservation::refused() const { return state_->refused; }
const std::string& Reservation::reason() const { return state_->reason; }
uint64_t Reservation::staging_bytes_missing() const { return state_->staging_bytes_missing; }

}  // namespace stem
