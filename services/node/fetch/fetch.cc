#include "services/node/fetch/fetch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace stem {
namespace {

constexpr int kRoundsMax = 8;  // of waiting for others that compute, and then do not have it
constexpr absl::Duration kFairChance = absl::Milliseconds(50);
// How long planning may wait for slots in all: acquires that hold some and want more must not wait for each other.
constexpr absl::Duration kSlotWaitMax = absl::Milliseconds(250);

}  // namespace

std::string PlaceOf(const std::string& peer, bool from_ssd) { return absl::StrCat("node ", peer, from_ssd ? " ssd" : " dram"); }

v1::MissCause CauseOf(const absl::Status& status, absl::Time deadline) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss: return v1::MISS_CAUSE_INTEGRITY;
    case absl::StatusCode::kResourceExhausted: return v1::MISS_CAUSE_REFUSED;
    case absl::StatusCode::kDeadlineExceeded:
      return absl::Now() >= deadline ? v1::MISS_CAUSE_DEADLINE : v1::MISS_CAUSE_NODE_LOST;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted: return v1::MISS_CAUSE_NODE_LOST;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAlreadyExists: return v1::MISS_CAUSE_NOT_YET;
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition: return v1::MISS_CAUSE_EVICTED;  // it left between name and bytes
    default: return v1::MISS_CAUSE_UNKNOWN;
  }
}

bool IsLate(const absl::Status& status, absl::Time asked) {
  return absl::IsUnavailable(status) || (absl::IsDeadlineExceeded(status) && absl::Now() - asked >= kFairChance);
}

Fetch::Fetch(const Fetcher::Parts& parts, WorkQueue& queue, std::shared_ptr<Session> session, AcquireCall call,
             std::shared_ptr<AcquirePins> pins)
    : parts_(parts),
      queue_(queue),
      session_(std::move(session)),
      call_(std::move(call)),
      pins_(std::move(pins)),
      pool_(session_->space().pool()),
      parts_asked_(call_.chain.parts.size()),
      trace_(parts.sinks, {.kind = RequestKind::kAcquire,
                           .space = &session_->space(),
                           .request = call_.request,
                           .trace = call_.trace,
                           .deadline = call_.deadline,
                           .blocks_asked = static_cast<uint32_t>(call_.chain.keys.size()),
                           .last_key = call_.chain.keys.back(),
                           .probe = call_.chain.probe}),
      slots_until_(std::min(call_.deadline, trace_.facts().began + kSlotWaitMax)),
      settled_(call_.compute == absl::ZeroDuration()),
      outcome_(call_.chain.keys.size()),
      worth_blocks_(call_.chain.keys.size()) {
  if (parts_.sinks.tracer.on()) pins_->SetTrace(trace_.facts().trace);
  window_blocks_ = WindowBlocksOf(session_->space().spec, call_.chain.parts);
  if (windowed()) return;
  stem_blocks_ = static_cast<uint32_t>(blocks());
  names_.reserve(call_.chain.keys.size() * parts_asked_);
  for (size_t block = 0; block < blocks(); ++block) {
    for (size_t part = 0; part < parts_asked_; ++part) names_.push_back(NameOf(block, part));
  }
}

size_t Fetch::IndexOf(size_t block) const {
  if (!windowed()) return block * parts_asked_;
  return static_cast<size_t>(std::lower_bound(positions_.begin(), positions_.end(), block * parts_asked_) - positions_.begin());
}

bool Fetch::EndsBlock(size_t index) const {
  return index + 1 == names_.size() || BlockOf(index) != BlockOf(index + 1);
}

std::optional<BlockKey> Fetch::ParentOf(size_t index) const {
  const uint32_t position = PositionOf(index);
  if (position < parts_asked_) return std::nullopt;
  if (!windowed()) return names_[index - parts_asked_].key;
  const size_t part = position % parts_asked_;
  if (window_blocks_[part] != 0) return std::nullopt;
  return PartKey(call_.chain.keys[position / parts_asked_ - 1], call_.chain.parts[part]);
}

size_t Fetch::planned_blocks() const {
  if (windowed()) return planned_whole() ? stem_blocks_ : 0;
  return (pinned_ + steps_.size()) / parts_asked_;
}

bool Fetch::PinReady() {
  if (windowed()) {
    if (LocalStem() < blocks()) return false;
    Need(static_cast<uint32_t>(blocks()));
  }
  std::vector<BlockPin> pins;
  pins.reserve(names_.size());
  pool_.PinRun(names_, pins);
  for (; pinned_ < pins.size(); ++pinned_) {
    pinned_bytes_ += pins[pinned_].meta().length;
    AppendSlot(*acquired_.mutable_ready(), PositionOf(pinned_), Readable(pins[pinned_], v1::SOURCE_LOCAL_DRAM));
    if (windowed()) pins_->Put(PositionOf(pinned_), std::move(pins[pinned_]));
  }
  if (!windowed()) pins_->PutLeading(std::move(pins));
  return pinned_ == names_.size();
}

void Fetch::AnswerPinned(v1::MissCause cause) {
  matched_ = static_cast<uint32_t>(planned_blocks());
  AppendMiss(*acquired_.mutable_misses(), matched_, static_cast<uint32_t>(blocks()) - matched_, cause);
  acquired_.mutable_truth()->set_exact(true);
  if (cause == v1::MISS_CAUSE_DEADLINE) trace_.facts().error = "the deadline passed before the node came to it";
  if (cause == v1::MISS_CAUSE_REFUSED) trace_.facts().error = "too many acquires wait on this node";
  Answer();
  Finish();
}

void Fetch::Run() {
  if (absl::Now() >= call_.deadline) {
    parts_.metrics.CountDeadlineMiss(Stage::kAcquire);
    return AnswerPinned(v1::MISS_CAUSE_DEADLINE);
  }
  if (!settled_ && AskWhoComputes()) return;
  slots_until_ = std::min(call_.deadline, absl::Now() + kSlotWaitMax);
  acquired_.mutable_truth()->set_exact(true);
  if (windowed() && stem_blocks_ < blocks()) ChooseStem();
  Appraise();
  PlanLocal();
  if (!planned_whole() || stem_blocks_ < blocks()) PlanRemote();
  if (windowed() && !planned_whole()) PlanLocalStem();
  matched_ = static_cast<uint32_t>(planned_blocks());
  // Parts of a block that is not whole are of no use to this client.
  if (const size_t whole = IndexOf(matched_); whole >= pinned_) SetAside(whole - pinned_);
  for (const LentStretch& lent : lent_) AnswerLent(lent);
  StartReads();
  Answer();
  Bring();
  Conclude();
  BringAside();
  Finish();
}

void Fetch::StartReads() {
  for (const std::shared_ptr<RemoteRun>& run : runs_) {
    RemoteRun::Start(run, parts_.transport, *parts_.registrations[session_->space().memory->arena_id], call_.deadline);
  }
  reads_began_ = absl::Now();
}

// ---- Single flight ------------------------------------------------------------------------------------------------------

// Holds nothing but the pins of what is Ready: the wait may be long.
bool Fetch::AskWhoComputes() {
  size_t index = pinned_;
  while (index < names_.size() && pool_.Find(names_[index]) != BlockPool::Presence::kAbsent) ++index;
  size_t block = windowed() ? LocalStem() : index / parts_asked_;
  causes_.assign(blocks(), v1::MISS_CAUSE_UNSPECIFIED);
  if (block < blocks()) {
    const size_t first = windowed() ? 0 : block;
    const absl::StatusOr<v1::MatchReply> reply = MatchFrom(first);
    settled_ = !reply.ok();
    if (settled_) return false;
    for (const v1::Miss& miss : reply->misses()) {
      std::fill_n(causes_.begin() + static_cast<ptrdiff_t>(first + miss.first()), miss.count(), miss.cause());
    }
    known_as_ = reply->known_as();
    block = std::max(block, first + reply->matched_blocks());
  }
  settled_ = block == blocks();
  if (settled_) return false;
  // The part that is published last of those that every block has.
  const NamespaceSpec& spec = session_->space().spec;
  uint32_t part = call_.chain.parts.front();
  for (const uint32_t each : call_.chain.parts) part = spec.part(each)->group == GroupKind::kFull ? each : part;
  const NamespaceFingerprint& space = session_->space().fingerprint;
  SingleFlight::Want want{.session = session_->id(),
                          .space = space,
                          .keys = {},
                          .route = call_.chain.keys.front().low ^ space.low,
                          .compute = call_.compute,
                          .deadline = call_.deadline};
  for (; block < blocks(); ++block) want.keys.push_back(PartKey(call_.chain.keys[block], part));
  asked_ = absl::Now();
  parts_.single_flight.Ask(std::move(want), [self = shared_from_this()](const SingleFlight::Answer& answer) { self->OnVerdict(answer); });
  return true;
}

void Fetch::OnVerdict(const SingleFlight::Answer& answer) {
  if (answer.waited) {
    const size_t step = trace_.Continue(Stage::kAwait, asked_);
    trace_.AddPiece(step, asked_, absl::Now());
    trace_.at(step).peer = answer.directory;
  }
  directory_ = answer.directory;
  ours_ = answer.verdict == SingleFlight::Verdict::kOurs;
  settled_ = answer.verdict != SingleFlight::Verdict::kAgain || ++rounds_ == kRoundsMax;
  if (!queue_.TryPost([self = shared_from_this()] { self->Run(); })) AnswerPinned(v1::MISS_CAUSE_REFUSED);
}

absl::StatusOr<v1::MatchReply> Fetch::MatchFrom(size_t block) {
  RequestTrace::Timed step(trace_, Stage::kMatch);
  step->keys = static_cast<uint32_t>(blocks() - block);
  std::vector<WantedPart> wanted;
  for (size_t part = 0; part < parts_asked_; ++part) {
    wanted.push_back({.id = call_.chain.parts[part], .window_blocks = windowed() ? window_blocks_[part] : 0});
  }
  absl::StatusOr<v1::MatchReply> reply = parts_.directories.Match({.space = session_->space().fingerprint,
                                                                   .keys = std::span(call_.chain.keys).subspan(block),
                                                                   .parts = wanted,
                                                                   .first = directory_,
                                                                   .trace = trace_.ContextOf(step.step()),
                                                                   .probe = block == 0 ? call_.chain.probe : std::nullopt},
                                                                  call_.deadline);
  if (reply.ok()) {
    step->blocks = reply->matched_blocks();
    if (!reply->misses().empty()) step->cause = reply->misses(0).cause();
  } else {
    trace_.Fail(step.step(), reply.status(), CauseOf(reply.status(), call_.deadline));
  }
  return reply;
}

// ---- Answering ----------------------------------------------------------------------------------------------------------

ReadableSlot Fetch::Readable(const BlockPin& pin, v1::Source source) const {
  return {.arena = session_->space().memory->arena_id, .slot = pin.slot(), .generation = pin.meta().generation, .source = source};
}

// What the client reads in a host peer's memory is there already.
void Fetch::AnswerLent(const LentStretch& lent) {
  const PeerLease& lease = lent.run->lease();
  const uint32_t arena = lease.mapped->arenas().at(lease.reply.arena()).offer;
  for (size_t i = 0; i < lent.run->blocks().size(); ++i) {
    const size_t index = lent.first + i;
    if (index >= IndexOf(matched_)) break;
    const auto leased = static_cast<int>(i);
    const v1::Source source = lease.reply.from_ssd(leased) ? v1::SOURCE_REMOTE_SSD : v1::SOURCE_REMOTE_DRAM;
    AppendSlot(*acquired_.mutable_ready(), PositionOf(index),
               {.arena = arena, .slot = lease.reply.slots(leased), .generation = lease.reply.generations(leased), .source = source});
    parts_.metrics.AddBytes(v1::BYTE_PATH_SAME_HOST, lease.reply.lengths(leased));
    steps_[index - pinned_].lent_from = source;
    trace_.AddHitBytes(source, lease.reply.lengths(leased));
  }
  if (pins_->Hold(static_cast<uint32_t>(lent.first), lent.run)) parts_.copier.Add(lent.run);
}

void Fetch::Answer() {
  acquired_.set_matched_blocks(matched_);
  CutSlots(*acquired_.mutable_ready(), matched_ * static_cast<uint32_t>(parts_asked_));  // pinned parts of a block that is not whole
  for (size_t index = 0; index < pinned_; ++index) {
    if (BlockOf(index) < matched_) NoteHit(index, v1::SOURCE_LOCAL_DRAM);
    else pinned_bytes_ -= session_->space().spec.part(call_.chain.parts[PositionOf(index) % parts_asked_])->block_bytes;
  }
  parts_.metrics.AddBytes(v1::BYTE_PATH_LOCAL, pinned_bytes_);
  trace_.AddHitBytes(v1::SOURCE_LOCAL_DRAM, pinned_bytes_);
  for (const v1::Miss& miss : acquired_.misses()) {
    outcome_.Miss(miss.first(), miss.count(), miss.cause());
    if (miss.cause() == v1::MISS_CAUSE_REFUSED) parts_.metrics.CountRefused(RefusedCall::kAcquire, refused_why_, miss.count());
  }
  if (std::all_of(steps_.begin(), steps_.end(), [](const Step& step) { return step.lent; })) {
    for (size_t i = 0; i < steps_.size(); ++i) NoteHit(pinned_ + i, steps_[i].lent_from);
    Conclude();
  }
  RequestFacts& facts = trace_.facts();
  facts.misses.assign(acquired_.misses().begin(), acquired_.misses().end());
  facts.difference = acquired_.difference();
  facts.answered = absl::Now();
  parts_.log.Debug("acquired", {{"session", session_->id()},
                                {"request", call_.request},
                                {"blocks", blocks()},
                                {"matched", matched_},
                                {"pinned", pinned_},
                                {"runs", runs_.size()}});
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  *message.mutable_acquired() = std::move(acquired_);
  session_->Send(std::move(message));
}

void Fetch::NoteHit(size_t index, v1::Source source) {
  const uint32_t block = BlockOf(index);
  slowest_ = block == slowest_of_ ? std::max(slowest_, source) : source;
  slowest_of_ = block;
  if (!EndsBlock(index)) return;
  while (index > 0 && BlockOf(index - 1) == block) --index;
  // What lies before a window is hit with it: of those blocks nothing is needed.
  for (uint32_t each = index == 0 ? 0 : BlockOf(index - 1) + 1; each <= block; ++each) outcome_.Hit(each, slowest_);
}

void Fetch::Conclude() {
  if (std::exchange(concluded_, true)) return;
  outcome_.MissRest(v1::MISS_CAUSE_DEADLINE);  // promised, and let go of by the client before it came
  parts_.metrics.CountAcquire(
      {.space = session_->space(), .outcome = outcome_, .parts_asked = parts_asked_, .block_compute = call_.block_compute});
}

void Fetch::RecordOutcome() {
  RequestFacts& facts = trace_.facts();
  const AcquireOutcome::Counts counts = outcome_.counts();
  facts.blocks_matched = 0;
  for (size_t source = 0; source < counts.hits.size(); ++source) {
    facts.hits.at(source).blocks = static_cast<uint32_t>(counts.hits[source]);
    facts.blocks_matched += facts.hits[source].blocks;
  }
  const std::vector<v1::Miss> told = std::move(facts.misses);  // with when they may be there
  const auto misses = outcome_.misses();
  facts.misses.assign(misses.begin(), misses.end());
  for (v1::Miss& miss : facts.misses) {
    const auto same = std::find_if(told.begin(), told.end(), [&](const v1::Miss& each) {
      return each.first() == miss.first() && each.cause() == miss.cause();
    });
    if (same != told.end()) miss.set_estimate_ms(same->estimate_ms());
  }
  if (facts.blocks_matched < blocks()) facts.first_missing_key = call_.chain.keys[facts.blocks_matched];
}

}  // namespace stem
