#include "services/node/publisher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

// How long one block may wait for a slot: a disk that is slower than its publishers makes them drop blocks, not queue up.
constexpr absl::Duration kSlotWaitMax = absl::Milliseconds(500);

absl::Status CheckCommit(Session& session, const ReservedChain& chain, const v1::Commit& commit) {
  const uint64_t staging_bytes = session.staging().has_value() ? session.staging()->bytes().size() : 0;
  for (int i = 0; i < commit.positions_size(); ++i) {
    const uint32_t position = commit.positions(i);
    if (position >= chain.names.size() || !chain.wanted[position]) {
      return absl::InvalidArgumentError(absl::StrCat("position ", position, " was not wanted by its reservation"));
    }
    const uint64_t offset = commit.staging_offsets(i);
    if (offset > staging_bytes || chain.lengths[position] > staging_bytes - offset) {
      return absl::InvalidArgumentError(absl::StrCat("staging_offset ", offset, " with ", chain.lengths[position],
                                                     " bytes leaves the staging of ", staging_bytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

void Publisher::Reserve(std::shared_ptr<Session> session, uint64_t id, ReserveCall call, absl::Time deadline) {
  const Space& space = session->space();
  std::optional<BlockName> lent;  // the first part's parent says it for all
  if (call.parent.has_value()) {
    const BlockName parent{space.fingerprint, PartKey(*call.parent, call.chain.parts.front())};
    if (space.pool().Find(parent) == BlockPool::Presence::kAbsent && copier_.Knows(parent)) lent = parent;
  }
  if (!lent.has_value()) return AnswerReserve(*session, id, call);
  // Copies take time that the stream's other messages do not have.
  auto shared_call = std::make_shared<ReserveCall>(std::move(call));
  const bool posted = queue_.TryPost([this, session, id, shared_call, deadline] {
    for (const uint32_t part : shared_call->chain.parts) {
      (void)copier_.CopyNow({session->space().fingerprint, PartKey(*shared_call->parent, part)}, deadline);
    }
    AnswerReserve(*session, id, *shared_call);
  });
  if (!posted) AnswerReserve(*session, id, *shared_call);  // refuses, with the reason
}

void Publisher::AnswerReserve(Session& session, uint64_t id, const ReserveCall& call) {
  v1::NodeMessage answer;
  answer.set_request_id(id);
  if (absl::StatusOr<v1::Reserved> reserved = Decide(session, id, call); reserved.ok()) {
    *answer.mutable_reserved() = *std::move(reserved);
  } else {
    answer.set_code(static_cast<uint32_t>(reserved.status().code()));
    answer.set_error(std::string(reserved.status().message()));
  }
  session.Send(std::move(answer));
}

absl::StatusOr<v1::Reserved> Publisher::Decide(Session& session, uint64_t id, const ReserveCall& call) {
  const StageTimer timer(metrics_, Stage::kReserve);
  const Space& space = session.space();
  const size_t parts_asked = call.chain.parts.size();
  const absl::Time now = absl::Now();
  ReservedChain chain;
  v1::Reserved reserved;
  bool extends = true;  // everything before this position is held, reserved or wanted
  for (size_t block = 0; block < call.chain.keys.size(); ++block) {
    bool block_extends = true;
    for (uint32_t part : call.chain.parts) {
      const auto position = static_cast<uint32_t>(chain.names.size());
      const BlockName name{space.fingerprint, PartKey(call.chain.keys[block], part)};
      std::optional<BlockKey> parent;
      if (space.spec.part(part)->group != GroupKind::kFull) {
        // Law 7 is not theirs: readers do not need the blocks before.
      } else if (block > 0) {
        parent = chain.names[position - parts_asked].key;
      } else if (call.parent.has_value()) {
        parent = PartKey(*call.parent, part);
      }
      const BlockPool::Presence presence = space.pool().Find(name);
      const bool held = presence == BlockPool::Presence::kDram || presence == BlockPool::Presence::kSsd;
      bool wanted = false;
      if (held) {
        reserved.set_held(reserved.held() + 1);
      } else if (block == 0 && parent.has_value() &&
                 space.pool().Find({space.fingerprint, *parent}) == BlockPool::Presence::kAbsent) {
        reserved.set_refused(reserved.refused() + 1);
        reserved.set_reason(absl::StrCat("the parent ", parent->ToHex(), " is not held here; reserve from the chain's first missing block"));
        block_extends = false;
      } else if (!extends) {
        reserved.set_refused(reserved.refused() + 1);
      } else if (presence == BlockPool::Presence::kFilling ||
                 !reservations_.TryReserve(name, session.id(), now, now + reservation_max_)) {
        reserved.set_being_published(reserved.being_published() + 1);
      } else {
        wanted = true;
        v1::Reserved::Run* run = reserved.wanted().empty() ? nullptr : reserved.mutable_wanted(reserved.wanted_size() - 1);
        if (run == nullptr || run->first() + run->count() != position) {
          run = reserved.add_wanted();
          run->set_first(position);
        }
        run->set_count(run->count() + 1);
      }
      chain.names.push_back(name);
      chain.parents.push_back(parent);
      chain.lengths.push_back(space.spec.part(part)->block_bytes);
      chain.wanted.push_back(wanted);
    }
    extends = extends && block_extends;
  }
  metrics_.CountRefused(RefusedCall::kReserve, RefusedReason::kNoParent, reserved.refused());
  const std::vector<BlockName> names = chain.names;
  if (absl::Status added = session.AddReservation(id, std::move(chain)); !added.ok()) {
    reservations_.Free(names, session.id());
    if (absl::IsResourceExhausted(added)) metrics_.CountRefused(RefusedCall::kReserve, RefusedReason::kLimit, names.size());
    return added;
  }
  return reserved;
}

void Publisher::Commit(std::shared_ptr<Session> session, uint64_t id, const v1::Commit& commit, absl::Time deadline) {
  v1::NodeMessage answer;
  answer.set_request_id(id);
  const auto fail = [&](const absl::Status& status) {
    answer.set_code(static_cast<uint32_t>(status.code()));
    answer.set_error(std::string(status.message()));
    session->Send(std::move(answer));
  };
  std::optional<ReservedChain> chain = session->TakeReservation(commit.reserve_id());
  if (!chain.has_value()) {
    return fail(absl::NotFoundError(absl::StrCat("reserve_id ", commit.reserve_id(), " is not open; it was committed or abandoned")));
  }
  if (const absl::Status status = CheckCommit(*session, *chain, commit); !status.ok()) {
    reservations_.Free(chain->names, session->id());
    return fail(status);
  }
  // Shared, as std::function copies.
  auto shared_chain = std::make_shared<ReservedChain>(*std::move(chain));
  const bool posted = queue_.TryPost([this, session, id, commit, deadline, shared_chain] {
    v1::NodeMessage message;
    message.set_request_id(id);
    *message.mutable_committed() = Copy(*session, *shared_chain, commit, deadline);
    reservations_.Free(shared_chain->names, session->id());
    session->Send(std::move(message));
  });
  if (posted) return;
  reservations_.Free(shared_chain->names, session->id());
  metrics_.CountRefused(RefusedCall::kCommit, RefusedReason::kQueueFull, commit.positions_size());
  answer.mutable_committed()->set_refused(commit.positions_size());
  answer.mutable_committed()->set_reason("too many commits wait for their copies");
  session->Send(std::move(answer));
}

v1::Committed Publisher::Copy(Session& session, const ReservedChain& chain, const v1::Commit& commit, absl::Time deadline) {
  const StageTimer timer(metrics_, Stage::kCommit);
  const absl::Time began = absl::Now();
  BlockPool& pool = session.space().pool();
  const std::span<std::byte> staging = session.staging()->bytes();
  v1::Committed committed;
  std::vector<BlockPin> pins;  // until the chain is whole: a parent must not leave before its child comes
  for (int i = 0; i < commit.positions_size(); ++i) {
    const uint32_t position = commit.positions(i);
    const BlockName& name = chain.names[position];
    const uint64_t length = chain.lengths[position];
    const absl::Time slot_until = std::min(deadline, absl::Now() + kSlotWaitMax);
    absl::StatusOr<Filling> filling = pool.BeginFill(name, chain.parents[position], slot_until);
    absl::Status status = filling.status();
    if (filling.ok()) {
      const SlotView<std::byte> slot = filling->view();
      // The client may still write its staging: the digest is of what arrived in the slot.
      const uint64_t digest = CopyAndDigest(slot.payload(length), staging.subspan(commit.staging_offsets(i), length), name,
                                            slot.chunk_hashes(ChunkCount(length)));
      absl::StatusOr<BlockPin> pin = std::move(*filling).Commit(length, digest, session.id(), false);
      status = pin.status();
      if (pin.ok()) pins.push_back(*std::move(pin));
    }
    if (status.ok()) {
      committed.set_committed(committed.committed() + 1);
      metrics_.AddBytes(v1::BYTE_PATH_PUBLISH, length);
    } else if (absl::IsAlreadyExists(status)) {
      committed.set_duplicate(committed.duplicate() + 1);
    } else {
      committed.set_refused(committed.refused() + 1);
      committed.set_reason(std::string(status.message()));
      if (absl::Now() >= deadline) metrics_.CountDeadlineMiss(Stage::kCommit);
      metrics_.CountRefused(RefusedCall::kCommit,
                            absl::IsFailedPrecondition(status) ? RefusedReason::kNoParent : RefusedReason::kNoSlot, 1);
    }
  }
  metrics_.CountPublished(session.space(), committed.committed());
  metrics_.AddSeconds(v1::BYTE_PATH_PUBLISH, absl::Now() - began);
  pool.Touch(chain.names);
  return committed;
}

void Publisher::Abandon(Session& session, uint64_t reserve_id) {
  const std::optional<ReservedChain> chain = session.TakeReservation(reserve_id);
  if (chain.has_value()) reservations_.Free(chain->names, session.id());
}

}  // namespace stem
