#include "services/directory/holder_stream.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {
namespace {

v1::MissCause CauseOf(v1::RemoveReason reason) {
  switch (reason) {
    case v1::REMOVE_REASON_SPILL_REJECTED: return v1::MISS_CAUSE_SPILL_REJECTED;
    case v1::REMOVE_REASON_INTEGRITY: return v1::MISS_CAUSE_INTEGRITY;
    default: return v1::MISS_CAUSE_EVICTED;  // withdrawn blocks too: they were held, and it was decided to drop them
  }
}

}  // namespace

HolderStream::HolderStream(Membership& membership, PrefixIndex& index) : membership_(membership), index_(index) {}

absl::StatusOr<HolderStream::Outcome> HolderStream::OnMessage(const v1::AnnounceMessage& message, absl::Time now) {
  if ((state_ == State::kNew) != message.has_hello()) {
    return absl::InvalidArgumentError(state_ == State::kNew ? "the first message of a stream must be hello"
                                                            : "hello came twice; it must be the first message only");
  }
  if (message.has_hello()) {
    STEM_TRY(ValidateHello(message.hello()));
    STEM_ASSIGN(ticket_, membership_.Join(message.hello(), now));
    state_ = State::kWaiting;
    return Outcome();
  }
  switch (membership_.Heard(ticket_, now)) {
    case Membership::Standing::kSuperseded:
      return absl::AbortedError(absl::StrCat("another stream speaks for node '", ticket_.node, "' now"));
    case Membership::Standing::kDropped:
      if (state_ == State::kWhole || state_ == State::kFilling) return AskResync(0);
      break;
    case Membership::Standing::kCurrent:
      break;
  }
  switch (message.message_case()) {
    case v1::AnnounceMessage::kBatch: return OnBatch(message.batch(), now);
    case v1::AnnounceMessage::kChunk: return OnChunk(message.chunk(), now);
    case v1::AnnounceMessage::kHeartbeat: return OnHeartbeat(message.heartbeat(), now);
    default: break;
  }
  return absl::InvalidArgumentError("the message is not set, or of a kind that this directory does not know");
}

void HolderStream::OnClosed() {
  if (state_ != State::kNew) membership_.Leave(ticket_);
}

absl::StatusOr<HolderStream::Outcome> HolderStream::OnBatch(const v1::Batch& batch, absl::Time now) {
  STEM_ASSIGN(const ValidChanges valid, ValidateBatch(batch));
  STEM_TRY(Intern(valid.namespaces));
  if (state_ != State::kWhole) return Outcome();
  if (batch.sequence() > applied_ + 1) return AskResync(batch.sequence());
  const uint64_t skip = applied_ + 1 - batch.sequence();
  if (skip >= valid.changes) return Acknowledge();  // all of it is known
  STEM_TRY(CheckInterned(valid));
  Outcome outcome;
  const uint64_t applied = Apply(valid, skip);
  applied_ += applied;
  membership_.Applied(ticket_, applied_, now);
  outcome = Acknowledge();
  outcome.changes = applied;
  return outcome;
}

absl::StatusOr<HolderStream::Outcome> HolderStream::OnChunk(const v1::SnapshotChunk& chunk, absl::Time now) {
  STEM_ASSIGN(const ValidChanges valid, ValidateChunk(chunk));
  STEM_TRY(Intern(valid.namespaces));
  if (chunk.sequence() < applied_) return Outcome();  // older than what is known
  if (chunk.index() == 0) {
    STEM_TRY(CheckInterned(valid));
    STEM_ASSIGN(slot_, membership_.BeginSnapshot(ticket_));
    state_ = State::kFilling;
    filling_sequence_ = chunk.sequence();
    filling_adds_ = 0;
    next_chunk_ = 0;
  }
  const bool awaited = state_ == State::kFilling && chunk.sequence() == filling_sequence_;
  if (!awaited || chunk.index() < next_chunk_) return Outcome();  // of another snapshot, or twice
  if (chunk.index() > next_chunk_) return AskResync(chunk.sequence());
  STEM_TRY(CheckInterned(valid));
  Outcome outcome;
  const uint64_t applied = Apply(valid, 0);
  filling_adds_ += applied;
  ++next_chunk_;
  idle_beats_ = 0;
  if (chunk.last()) {
    state_ = State::kWhole;
    applied_ = filling_sequence_;
    promised_.reset();
    retry_beats_ = kRetryBeats;
    membership_.EndSnapshot(ticket_, applied_, filling_adds_, now);
  }
  outcome = Acknowledge();
  outcome.reply->mutable_acknowledge()->set_chunks(next_chunk_);
  outcome.changes = applied;
  return outcome;
}

HolderStream::Outcome HolderStream::OnHeartbeat(const v1::Heartbeat& heartbeat, absl::Time now) {
  membership_.Beat(ticket_, heartbeat, now);
  if (state_ != State::kWhole) {
    if (++idle_beats_ <= retry_beats_) return Outcome();
    retry_beats_ = std::min(retry_beats_ * 2, kRetryBeats * 16);
    return AskResync(heartbeat.sequence());
  }
  if (promised_ && applied_ < *promised_) return AskResync(heartbeat.sequence());
  promised_.reset();
  if (applied_ < heartbeat.sequence()) promised_ = heartbeat.sequence();
  return Acknowledge();
}

absl::Status HolderStream::Intern(const std::vector<InternedNamespace>& namespaces) {
  for (const InternedNamespace& each : namespaces) {
    const auto known = namespaces_.find(each.number);
    if (known == namespaces_.end() && namespaces_.size() >= kNamespacesMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace ", each.number, " is one too many; a stream may intern ", kNamespacesMax));
    }
    if (known != namespaces_.end() && !(known->second.space == each.space && known->second.engine_cache == each.engine_cache)) {
      return absl::InvalidArgumentError(absl::StrCat("namespace ", each.number, " is interned as ",
                                                     known->second.space.ToHex(), " and cannot become ", each.space.ToHex()));
    }
    namespaces_.emplace(each.number, each);
  }
  return absl::OkStatus();
}

absl::Status HolderStream::CheckInterned(const ValidChanges& valid) const {
  for (const ValidChangeRun& run : valid.runs) {
    if (!namespaces_.contains(run.namespace_number)) {
      return absl::InvalidArgumentError(
          absl::StrCat("namespace ", run.namespace_number, " was not interned on this stream"));
    }
  }
  return absl::OkStatus();
}

uint64_t HolderStream::Apply(const ValidChanges& valid, uint64_t skip) {
  uint64_t applied = 0;
  for (const ValidChangeRun& run : valid.runs) {
    if (skip >= run.keys.size()) {
      skip -= run.keys.size();
      continue;
    }
    const InternedNamespace& interned = namespaces_.at(run.namespace_number);
    const NamespaceFingerprint space = interned.space;
    const auto fingerprint = [&space](const BlockKey& key) { return IndexedAs({.space = space, .key = key}); };
    fingerprints_.resize(run.keys.size() - skip);
    std::transform(run.keys.begin() + static_cast<ptrdiff_t>(skip), run.keys.end(), fingerprints_.begin(), fingerprint);
    if (run.remove) {
      index_.RemoveRun(slot_, fingerprints_, CauseOf(run.reason));
    } else {
      const BlockKey* before = skip > 0 ? &run.keys[skip - 1] : run.parent ? &*run.parent : nullptr;
      index_.AddRun(slot_, fingerprints_, before != nullptr ? std::optional(fingerprint(*before)) : std::nullopt, run.tier,
                    interned.engine_cache ? PrefixIndex::Counted::kNo : PrefixIndex::Counted::kYes);
    }
    applied += run.keys.size() - skip;
    skip = 0;
  }
  return applied;
}

HolderStream::Outcome HolderStream::Acknowledge() const {
  Outcome outcome;
  outcome.reply.emplace().mutable_acknowledge()->set_sequence(applied_);
  return outcome;
}

HolderStream::Outcome HolderStream::AskResync(uint64_t received) {
  membership_.Gapped(ticket_);
  state_ = State::kWaiting;
  idle_beats_ = 0;
  Outcome outcome;
  outcome.resync = true;
  v1::Resync* resync = outcome.reply.emplace().mutable_resync();
  resync->set_expected(applied_ + 1);
  resync->set_received(received);
  return outcome;
}

}  // namespace stem
