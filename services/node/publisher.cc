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

// The step of a Reserve for `keys` payloads that was answered with `reserved`.
void NoteReserve(RequestTrace& trace, size_t step, size_t keys, const v1::Reserved& reserved) {
  trace.AddPiece(step, trace.at(step).begin, absl::Now());
  TraceStep& noted = trace.at(step);
  noted.keys = static_cast<uint32_t>(keys);
  for (const v1::Reserved::Run& run : reserved.wanted()) noted.blocks += run.count();
  noted.error = reserved.reason();
}

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

void Publisher::Reserve(std::shared_ptr<Session> session, uint64_t id, ReserveCall call, const TraceContext& trace, absl::Time deadline) {
  const Space& space = session->space();
  auto publish = std::make_shared<Publish>(Publish{.call = std::move(call), .trace = nullptr});
  const ReserveCall& asked = publish->call;
  publish->trace =
      std::make_unique<RequestTrace>(parts_.sinks, RequestFacts{.kind = RequestKind::kPublish,
                                                                .space = &space,
                                                                .trace = trace,
                                                                .deadline = deadline,
                                                                .blocks_asked = static_cast<uint32_t>(asked.chain.keys.size()),
                                                                .last_key = asked.chain.keys.back(),
                                                                .probe = asked.chain.probe});
  publish->step = publish->trace->Open(Stage::kReserve, publish->trace->facts().began);
  std::optional<BlockName> lent;  // the first part's parent says it for all
  if (asked.parent.has_value() && !parts_.drain.on()) {
    const BlockName parent{space.fingerprint, PartKey(*asked.parent, asked.chain.parts.front())};
    if (space.pool().Find(parent) == BlockPool::Presence::kAbsent && parts_.copier.Knows(parent)) lent = parent;
  }
  if (!lent.has_value()) return AnswerReserve(*session, id, *publish);
  // Copies take time that the stream's other messages do not have.
  const bool posted = queue_.TryPost([this, session, id, publish, deadline] {
    for (const uint32_t part : publish->call.chain.parts) {
      (void)parts_.copier.CopyNow({session->space().fingerprint, PartKey(*publish->call.parent, part)}, deadline);
    }
    AnswerReserve(*session, id, *publish);
  });
  if (!posted) AnswerReserve(*session, id, *publish);  // refuses, with the reason
}

void Publisher::AnswerReserve(Session& session, uint64_t id, Publish& publish) {
  v1::NodeMessage answer;
  answer.set_request_id(id);
  if (absl::StatusOr<v1::Reserved> reserved = Decide(session, id, publish); reserved.ok()) {
    *answer.mutable_reserved() = *std::move(reserved);
  } else {
    answer.set_code(static_cast<uint32_t>(reserved.status().code()));
    answer.set_error(std::string(reserved.status().message()));
  }
  session.Send(std::move(answer));
}

absl::StatusOr<v1::Reserved> Publisher::Decide(Session& session, uint64_t id, Publish& publish) {
  const ReserveCall& call = publish.call;
  const Space& space = session.space();
  const size_t parts_asked = call.chain.parts.size();
  const absl::Time now = absl::Now();
  ReservedChain chain;
  chain.probe = call.chain.probe;
  chain.conversation = call.conversation;
  v1::Reserved reserved;
  const absl::Status may_publish = parts_.drain.MayBegin("publishes");
  bool extends = may_publish.ok();  // everything before this position is held, reserved or wanted
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
      } else if (extends && block == 0 && parent.has_value() &&
                 space.pool().Find({space.fingerprint, *parent}) == BlockPool::Presence::kAbsent) {
        reserved.set_refused(reserved.refused() + 1);
        reserved.set_reason(absl::StrCat("the parent ", parent->ToHex(), " is not held here; reserve from the chain's first missing block"));
        block_extends = false;
      } else if (!extends) {
        reserved.set_refused(reserved.refused() + 1);
      } else if (presence == BlockPool::Presence::kFilling ||
                 !parts_.reservations.TryReserve(name, session.id(), now, now + reservation_max_)) {
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
  if (!may_publish.ok() && reserved.refused() > 0) reserved.set_reason(std::string(may_publish.message()));
  parts_.metrics.CountRefused(RefusedCall::kReserve, may_publish.ok() ? RefusedReason::kNoParent : RefusedReason::kDraining, reserved.refused());
  chain.trace = std::move(publish.trace);
  NoteReserve(*chain.trace, publish.step, chain.names.size(), reserved);
  if (reserved.wanted().empty()) chain.trace->End();
  if (absl::Status added = session.AddReservation(id, std::move(chain)); !added.ok()) {
    parts_.reservations.Free(chain.names, session.id());  // it was not taken
    chain.trace->facts().error = std::string(added.message());
    if (absl::IsResourceExhausted(added)) parts_.metrics.CountRefused(RefusedCall::kReserve, RefusedReason::kLimit, chain.names.size());
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
    parts_.reservations.Free(chain->names, session->id());
    chain->trace->facts().error = std::string(status.message());
    return fail(status);
  }
  // Shared, as std::function copies.
  auto shared_chain = std::make_shared<ReservedChain>(*std::move(chain));
  const bool posted = queue_.TryPost([this, session, id, commit, deadline, shared_chain] {
    v1::NodeMessage message;
    message.set_request_id(id);
    *message.mutable_committed() = Copy(*session, *shared_chain, commit, deadline);
    parts_.reservations.Free(shared_chain->names, session->id());
    RequestFacts& facts = shared_chain->trace->facts();
    facts.blocks_matched = message.committed().committed() / static_cast<uint32_t>(shared_chain->names.size() / facts.blocks_asked);
    if (message.committed().committed() == 0) facts.error = message.committed().reason();
    session->Send(std::move(message));
    shared_chain->trace->End();
  });
  if (posted) return;
  parts_.reservations.Free(shared_chain->names, session->id());
  parts_.metrics.CountRefused(RefusedCall::kCommit, RefusedReason::kQueueFull, commit.positions_size());
  shared_chain->trace->facts().error = "too many commits wait for their copies";
  answer.mutable_committed()->set_refused(commit.positions_size());
  answer.mutable_committed()->set_reason("too many commits wait for their copies");
  session->Send(std::move(answer));
}

v1::Committed Publisher::Copy(Session& session, const ReservedChain& chain, const v1::Commit& commit, absl::Time deadline) {
  const absl::Time began = absl::Now();
  RequestTrace::Timed step(*chain.trace, Stage::kCommit);
  step->keys = static_cast<uint32_t>(commit.positions_size());
  if (const TraceContext trace = chain.trace->ContextOf(step.step()); trace.sampled) parts_.latest.Set(trace);
  BlockPool& pool = session.space().pool();
  const std::span<std::byte> staging = session.staging()->bytes();
  v1::Committed committed;
  std::vector<BlockPin> pins;  // until the chain is whole: a parent must not leave before its child comes
  for (int i = 0; i < commit.positions_size(); ++i) {
    const uint32_t position = commit.positions(i);
    const BlockName& name = chain.names[position];
    const uint64_t length = chain.lengths[position];
    const absl::Time slot_until = std::min(deadline, absl::Now() + kSlotWaitMax);
    BlockPin parent;
    if (chain.parents[position].has_value()) {
      const BlockName wanted{name.space, *chain.parents[position]};
      const bool ours = std::any_of(pins.rbegin(), pins.rend(), [&](const BlockPin& pin) { return pin.meta().name == wanted; });
      // It may be on its way still, by the copier or another's hand.
      if (!ours) parent = pool.PinWhenFilled(wanted, slot_until);
    }
    absl::StatusOr<Filling> filling = pool.BeginFill(name, chain.parents[position], slot_until);
    absl::Status status = filling.status();
    if (filling.ok()) {
      const SlotView<std::byte> slot = filling->view();
      // The client may still write its staging: the digest is of what arrived in the slot.
      const uint64_t digest = CopyAndDigest(slot.payload(length), staging.subspan(commit.staging_offsets(i), length), name,
                                            slot.chunk_hashes(ChunkCount(length)));
      absl::StatusOr<BlockPin> pin = std::move(*filling).Commit(length, digest, session.id());
      status = pin.status();
      if (pin.ok()) pins.push_back(*std::move(pin));
    }
    if (status.ok()) {
      committed.set_committed(committed.committed() + 1);
      step->bytes += length;
      parts_.metrics.AddBytes(v1::BYTE_PATH_PUBLISH, length);
    } else if (absl::IsAlreadyExists(status)) {
      committed.set_duplicate(committed.duplicate() + 1);
    } else {
      committed.set_refused(committed.refused() + 1);
      committed.set_reason(std::string(status.message()));
      if (absl::Now() >= deadline) parts_.metrics.CountDeadlineMiss(Stage::kCommit);
      parts_.metrics.CountRefused(RefusedCall::kCommit,
                            absl::IsFailedPrecondition(status) ? RefusedReason::kNoParent : RefusedReason::kNoSlot, 1);
    }
  }
  parts_.metrics.CountPublished(session.space(), committed.committed());
  parts_.metrics.AddSeconds(v1::BYTE_PATH_PUBLISH, absl::Now() - began);
  if (chain.probe.has_value() && committed.committed() > 0) parts_.prompts.Remember(session.space(), *chain.probe);
  pool.Touch(chain.names, {.conversation = chain.conversation});
  step->blocks = committed.committed();
  step->error = committed.reason();
  return committed;
}

void Publisher::Abandon(Session& session, uint64_t reserve_id) {
  const std::optional<ReservedChain> chain = session.TakeReservation(reserve_id);
  if (chain.has_value()) parts_.reservations.Free(chain->names, session.id());
}

}  // namespace stem
