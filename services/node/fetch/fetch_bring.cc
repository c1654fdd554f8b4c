// Bringing: each planned position in turn, proved, and the client told.
#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "services/node/fetch/fetch.h"

namespace stem {
namespace {

// What the client is told of at once, so that it copies one part while the next is brought: slots, or bytes of large ones.
constexpr int kLandedSlotsPerMessage = 16;
constexpr uint64_t kLandedBytesPerMessage = 2 << 20;

}  // namespace

void Fetch::Bring() {
  std::vector<absl::StatusOr<BlockPin>> promoted;  // of the positions from promoted_first on
  size_t promoted_first = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].lent) {
      NoteHit(pinned_ + i, steps_[i].lent_from);
      continue;
    }
    if (pins_->released()) return SetAside(i);
    v1::Source source = v1::SOURCE_LOCAL_DRAM;
    absl::StatusOr<BlockPin> pin;
    if (steps_[i].from_ssd.valid()) {
      promoted = PromoteFrom(i);
      promoted_first = i;
    }
    if (i - promoted_first < promoted.size() && i >= promoted_first) {
      pin = std::move(promoted[i - promoted_first]);
      source = v1::SOURCE_LOCAL_SSD;
    } else {
      pin = BringOne(steps_[i], names_[pinned_ + i], &source);
    }
    if (!pin.ok()) {
      LearnRates();
      Lose(pinned_ + i, pin.status());
      return SetAside(i + 1);
    }
    if (!Land(pinned_ + i, *std::move(pin), source)) return SetAside(i + 1);
  }
  LearnRates();  // first, so that what the client asks for next is weighed with it
  Conclude();
  FlushLanded();
}

void Fetch::SetAside(size_t first) {
  for (size_t i = steps_.size(); i-- > first;) {  // children before their parents
    Step& step = steps_[i];
    const bool awaited = step.run != nullptr ? !step.run->GiveUp(step.op) : step.from_ssd.valid() && !step.from_ssd.GiveUp();
    if (awaited) aside_.push_front({.name = names_[pinned_ + i], .step = std::move(step)});
  }
  steps_.resize(first);
}

void Fetch::BringAside() {
  std::vector<Filling> from_ssd;
  for (Aside& each : aside_) {
    if (each.step.from_ssd.valid()) from_ssd.push_back(std::move(each.step.from_ssd));
  }
  (void)parts_.promoter.Promote(pool_, std::move(from_ssd), &trace_);
  for (Aside& each : aside_) {
    v1::Source source = v1::SOURCE_UNSPECIFIED;
    if (each.step.run != nullptr) (void)BringOne(each.step, each.name, &source);  // whoever awaits it hears of it
  }
  aside_.clear();
}

void Fetch::LearnRates() {
  for (size_t i = 0; i < runs_.size(); ++i) {
    const RunTally& tally = tallies_[i];
    parts_.rates.Learn(PlaceOf(runs_[i]->lease().node, runs_[i]->from_ssd()), tally.bytes, tally.last - tally.leased,
                       tally.last);
  }
}

// Promotes the run of spilled blocks that starts at step `first`.
std::vector<absl::StatusOr<BlockPin>> Fetch::PromoteFrom(size_t first) {
  FlushLanded();
  std::vector<Filling> fillings;
  for (size_t i = first; i < steps_.size() && steps_[i].from_ssd.valid() && fillings.size() < Promoter::kReadsPerSweep; ++i) {  // what the client waits for at a time
    fillings.push_back(std::move(steps_[i].from_ssd));
  }
  const absl::Time begin = absl::Now();
  std::vector<absl::StatusOr<BlockPin>> promoted = parts_.promoter.Promote(pool_, std::move(fillings), &trace_);
  uint64_t bytes = 0;
  for (const absl::StatusOr<BlockPin>& pin : promoted) bytes += pin.ok() ? pin->meta().length : 0;
  const absl::Time end = absl::Now();
  parts_.rates.Learn(kOwnSsd, bytes, end - begin, end);
  return promoted;
}

absl::StatusOr<BlockPin> Fetch::BringOne(Step& step, const BlockName& name, v1::Source* source) {
  if (step.pinned.valid()) {
    parts_.metrics.AddBytes(v1::BYTE_PATH_LOCAL, step.pinned.meta().length);
    return std::move(step.pinned);
  }
  if (step.awaited.valid()) return BringAwaited(name);
  RemoteRun& run = *step.run;
  const auto index = static_cast<size_t>(std::find(runs_.begin(), runs_.end(), step.run) - runs_.begin());
  if (!run.Finished(step.op)) FlushLanded();
  RunTally& tally = tallies_[index];
  tally.tried = true;
  absl::Time now = absl::Now();
  if (!run.mapped()) {
    const absl::Status read = run.WaitFor(step.op, call_.deadline);
    now = NotePiece(tally.read, Stage::kRead, index, now, read, run.bytes(step.op));
    if (!read.ok()) {
      TallyFailure(index, read);
      return read;
    }
  }
  *source = run.from_ssd(step.op) ? v1::SOURCE_REMOTE_SSD : v1::SOURCE_REMOTE_DRAM;
  absl::StatusOr<BlockPin> pin = run.Prove(step.op, name);
  now = NotePiece(tally.prove, Stage::kProve, index, now, pin.status(), run.bytes(step.op));
  if (pin.ok()) {
    parts_.metrics.AddBytes(run.mapped() ? v1::BYTE_PATH_SAME_HOST : v1::BYTE_PATH_REMOTE, pin->meta().length);
    tally.bytes += pin->meta().length;
    tally.last = now;
  }
  if (absl::IsDataLoss(pin.status())) {
    corrupt_[index].push_back(name.key);
    TallyFailure(index, pin.status());
    parts_.metrics.CountIntegrityFailure("remote", run.lease().node);
    parts_.log.Error("proof_failed", {{"peer", run.lease().node}, {"key", name.key.ToHex()}, {"why", pin.status().message()}});
  }
  return pin;
}

absl::Time Fetch::NotePiece(std::optional<size_t>& step, Stage stage, size_t run, absl::Time begin, const absl::Status& status,
                            uint64_t bytes) {
  if (!step.has_value()) {
    step = trace_.Open(stage, stage == Stage::kRead ? reads_began_ : begin);
    trace_.at(*step).peer = runs_[run]->lease().node;
  }
  const absl::Time end = absl::Now();
  trace_.AddPiece(*step, begin, end);
  TraceStep& noted = trace_.at(*step);
  ++noted.keys;
  if (!status.ok()) {
    trace_.Fail(*step, status, CauseOf(status, call_.deadline));
    return end;
  }
  ++noted.blocks;
  noted.bytes += bytes;
  return end;
}

// A block that someone else brings; it may have gone on to the SSD before it could be pinned.
absl::StatusOr<BlockPin> Fetch::BringAwaited(const BlockName& name) {
  FlushLanded();
  const absl::Time begin = absl::Now();
  BlockPin pin = pool_.PinWhenFilled(name, call_.deadline);
  if (!awaited_.has_value()) awaited_ = trace_.Open(Stage::kAwait, begin);  // not that of another's prefill
  const size_t step = *awaited_;
  trace_.AddPiece(step, begin, absl::Now());
  ++trace_.at(step).keys;
  if (pin.valid()) {
    ++trace_.at(step).blocks;
    parts_.metrics.AddBytes(v1::BYTE_PATH_LOCAL, pin.meta().length);
    return pin;
  }
  if (absl::Now() >= call_.deadline) return absl::DeadlineExceededError("the block did not become ready in time");
  if (pool_.Find(name) != BlockPool::Presence::kSsd) {
    return absl::CancelledError("whoever brought the block could not");
  }
  STEM_ASSIGN(Filling filling, Promoter::Begin(pool_, name, slots_until_));
  std::vector<Filling> fillings;
  fillings.push_back(std::move(filling));
  return std::move(parts_.promoter.Promote(pool_, std::move(fillings), &trace_).front());
}

bool Fetch::Land(size_t index, BlockPin pin, v1::Source source) {
  AppendSlot(*landed_.mutable_ready(), PositionOf(index), Readable(pin, source));
  const uint64_t bytes = pin.meta().length;
  landed_bytes_ += bytes;
  if (!pins_->Put(PositionOf(index), std::move(pin))) return false;
  CountHit(index, source, bytes);
  if (index + 1 == pinned_ + steps_.size()) return true;  // Bring tells of the last
  const auto& runs = landed_.ready();
  if (runs.Get(runs.size() - 1).slots_size() >= kLandedSlotsPerMessage || landed_bytes_ >= kLandedBytesPerMessage) FlushLanded();
  return true;
}

void Fetch::CountHit(size_t index, v1::Source source, uint64_t bytes) {
  NoteHit(index, source);
  trace_.AddHitBytes(source, bytes);
}

void Fetch::FlushLanded() {
  if (landed_.ready().empty()) return;
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  *message.mutable_landed() = std::move(landed_);
  landed_.Clear();
  landed_bytes_ = 0;
  session_->Send(std::move(message));
}

void Fetch::Lose(size_t index, const absl::Status& why) {
  FlushLanded();
  const uint32_t left = windowed() ? 0 : BlockOf(index);  // a shorter stem needs another window
  const v1::MissCause cause = CauseOf(why, call_.deadline);
  parts_.log.Warn("stem_broken", {{"request", call_.request}, {"block", left}, {"of", matched_}, {"why", why.message()}});
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  message.mutable_lost()->set_matched_blocks(left);
  AppendMiss(*message.mutable_lost()->mutable_misses(), left, matched_ - left, cause);
  outcome_.Miss(left, matched_ - left, cause);
  const Step& step = steps_[index - pinned_];
  if (cause == v1::MISS_CAUSE_REFUSED) parts_.metrics.CountRefused(RefusedCall::kAcquire, RefusedReason::kNoSlot, matched_ - left);
  if (cause == v1::MISS_CAUSE_DEADLINE) {
    parts_.metrics.CountDeadlineMiss(step.run != nullptr ? Stage::kRead : step.awaited.valid() ? Stage::kAwait : Stage::kPromote);
  }
  Conclude();
  trace_.facts().error = std::string(why.message());
  session_->Send(std::move(message));
}

void Fetch::TallyFailure(size_t run, const absl::Status& why) {
  RunTally& tally = tallies_[run];
  if (absl::IsDataLoss(why)) tally.result = PeerReports::Result::kCorrupt;
  else if (IsLate(why, tally.leased)) tally.result = PeerReports::Result::kLate;
  else tally.tried = false;  // says nothing of the peer
}

void Fetch::Finish() {
  Conclude();
  RecordOutcome();
  parts_.demand.Count({.space = session_->space(), .chain = call_.chain, .outcome = outcome_});  // under locks: the client waits no more
  pool_.Touch(std::span(names_).first(std::min(names_.size(), IndexOf(matched_))), {.conversation = call_.conversation});
  trace_.End();
  const TraceContext keep = trace_.kept_late();
  for (const LentStretch& lent : lent_) lent.run->KeepTrace(keep);
  for (size_t i = 0; i < runs_.size(); ++i) {
    parts_.peers.Return(runs_[i]->lease(), corrupt_[i], keep);
    if (tallies_[i].bytes > 0) {
      const absl::Duration took = tallies_[i].last - tallies_[i].leased;
      parts_.metrics.CountPeerRead(runs_[i]->lease().node, tallies_[i].bytes, took);
      if (!runs_[i]->mapped()) parts_.metrics.AddSeconds(v1::BYTE_PATH_REMOTE, took);
    }
    if (tallies_[i].tried) parts_.peer_reports.Count(runs_[i]->lease().node, tallies_[i].result);
  }
}

}  // namespace stem
