#include "services/node/fetcher.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "services/node/remote_run.h"
#include "services/node/slot_runs.h"

namespace stem {
namespace {

// What the client is told of at once, so that it copies one part while the next is brought: slots, or bytes of large ones.
constexpr int kLandedSlotsPerMessage = 16;
constexpr uint64_t kLandedBytesPerMessage = 4 << 20;
constexpr int kRoundsMax = 8;  // of waiting for others that compute, and then do not have it
constexpr absl::Duration kFairChance = absl::Milliseconds(50);
// How long planning may wait for slots in all: acquires that hold some and want more must not wait for each other.
constexpr absl::Duration kSlotWaitMax = absl::Milliseconds(250);

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

// Whether a peer is to blame that was asked at `asked`: it cannot be reached, or was silent for long enough that an impatient
// caller is not the reason.
bool IsLate(const absl::Status& status, absl::Time asked) {
  return absl::IsUnavailable(status) || (absl::IsDeadlineExceeded(status) && absl::Now() - asked >= kFairChance);
}

}  // namespace

// One Acquire. Runs on one thread at a time. A position is a block's part: block * parts + index of the part.
class Fetcher::Fetch : public std::enable_shared_from_this<Fetch> {
 public:
  Fetch(const Parts& parts, WorkQueue& queue, std::shared_ptr<Session> session, AcquireCall call,
        std::shared_ptr<AcquirePins> pins)
      : parts_(parts),
        queue_(queue),
        session_(std::move(session)),
        call_(std::move(call)),
        pins_(std::move(pins)),
        pool_(session_->space().pool()),
        parts_asked_(call_.chain.parts.size()),
        started_(absl::Now()),
        slots_until_(std::min(call_.deadline, started_ + kSlotWaitMax)),
        settled_(call_.compute == absl::ZeroDuration()) {
    names_.reserve(call_.chain.keys.size() * parts_asked_);
    for (const BlockKey& key : call_.chain.keys) {
      for (uint32_t part : call_.chain.parts) names_.push_back({session_->space().fingerprint, PartKey(key, part)});
    }
  }

  // Pins the leading positions that are Ready here. True when that is all of them.
  bool PinReady();
  // Plans, answers, brings; or asks who computes what is missing, and is called again when that is settled.
  void Run();
  // Answers with what PinReady found.
  void AnswerPinned(v1::MissCause cause_of_the_rest);

 private:
  struct Step {  // how a planned position comes: one of these
    BlockPin pinned;
    Filling from_ssd;
    std::shared_ptr<RemoteRun> run;
    size_t op = 0;
    bool wait = false;  // another fetch or a publish brings it
  };

  struct RunTally {  // of runs_, as its peer is told of
    bool tried = false;
    PeerReports::Result result = PeerReports::Result::kGood;
    absl::Time leased;
  };

  // True: somebody was asked, and Run will be called again, maybe already.
  bool AskWhoComputes();
  void OnVerdict(SingleFlight::Verdict verdict, const std::string& directory);
  absl::StatusOr<v1::MatchReply> MatchFrom(size_t block);
  void TallyFailure(size_t run, const absl::Status& why);
  void PlanLocal();
  void PlanRemote();
  bool PlanRun(const v1::MatchReply& reply, const v1::HolderRun& run, size_t first_block);
  // Plans the next position as brought by `run`, which leased it as its slot `leased`. False: it cannot be.
  bool PlanRead(const std::shared_ptr<RemoteRun>& run, size_t leased, v1::MissCause* cause);
  void PlanMisses(const v1::MatchReply* reply, size_t first_block);
  void Answer();
  void Bring();
  absl::StatusOr<BlockPin> BringOne(size_t i, v1::Source* source);
  absl::StatusOr<BlockPin> BringAwaited(size_t position);
  std::vector<absl::StatusOr<BlockPin>> PromoteFrom(size_t position);
  bool Land(size_t position, BlockPin pin, v1::Source source);
  void FlushLanded();
  void Lose(size_t position, const absl::Status& why);
  void Finish();

  std::optional<BlockKey> ParentOf(size_t position) const {
    if (position < parts_asked_) return std::nullopt;
    return names_[position - parts_asked_].key;
  }
  size_t blocks() const { return call_.chain.keys.size(); }

  const Parts& parts_;
  WorkQueue& queue_;
  const std::shared_ptr<Session> session_;
  const AcquireCall call_;
  const std::shared_ptr<AcquirePins> pins_;
  BlockPool& pool_;
  const size_t parts_asked_;
  const absl::Time started_;
  absl::Time slots_until_;
  bool settled_;             // who computes what is missing, or nobody asked
  int rounds_ = 0;           // of asking
  bool ours_ = false;        // this session computes it
  std::string directory_;    // that knows of intents; empty = any
  std::vector<v1::MissCause> causes_;  // by block, of what was missing before this session said that it computes it
  std::vector<BlockName> names_;  // by position
  size_t pinned_ = 0;             // leading positions pinned by PinReady
  std::vector<Step> steps_;       // planned positions, from pinned_ on
  std::vector<std::shared_ptr<RemoteRun>> runs_;
  std::vector<std::vector<BlockKey>> corrupt_;  // by run
  std::vector<RunTally> tallies_;               // by run
  v1::Acquired acquired_;
  v1::Landed landed_;
  uint64_t landed_bytes_ = 0;  // of it
  uint32_t matched_ = 0;
  std::optional<v1::MissCause> stopped_;  // why planning stopped before the directory's misses begin
};

Fetcher::Fetcher(Parts parts, size_t threads, size_t queue_depth_max) : parts_(parts), queue_(threads, queue_depth_max) {}

void Fetcher::Start(std::shared_ptr<Session> session, AcquireCall call) {
  const absl::StatusOr<std::shared_ptr<AcquirePins>> pins =
      session->AddAcquire(call.id, call.chain.keys.size() * call.chain.parts.size());
  if (!pins.ok()) {
    v1::NodeMessage answer;
    answer.set_request_id(call.id);
    answer.set_code(static_cast<uint32_t>(pins.status().code()));
    answer.set_error(std::string(pins.status().message()));
    return session->Send(std::move(answer));
  }
  auto fetch = std::make_shared<Fetch>(parts_, queue_, std::move(session), std::move(call), *pins);
  if (fetch->PinReady()) return fetch->AnswerPinned(v1::MISS_CAUSE_UNSPECIFIED);
  if (!queue_.TryPost([fetch] { fetch->Run(); })) fetch->AnswerPinned(v1::MISS_CAUSE_REFUSED);
}

bool Fetcher::Fetch::PinReady() {
  for (; pinned_ < names_.size(); ++pinned_) {
    BlockPin pin = pool_.Pin(names_[pinned_]);
    if (!pin.valid()) return false;
    AppendSlot(*acquired_.mutable_ready(), static_cast<uint32_t>(pinned_), session_->space().memory->arena_id, pin,
               v1::SOURCE_LOCAL_DRAM);
    parts_.metrics.AddBytes(BytePath::kLocal, pin.meta().length);
    pins_->Put(static_cast<uint32_t>(pinned_), std::move(pin));
  }
  return true;
}

void Fetcher::Fetch::AnswerPinned(v1::MissCause cause) {
  matched_ = static_cast<uint32_t>(pinned_ / parts_asked_);
  AppendMiss(*acquired_.mutable_misses(), matched_, static_cast<uint32_t>(blocks()) - matched_, cause);
  acquired_.mutable_truth()->set_exact(true);
  Answer();
  Finish();
}

void Fetcher::Fetch::Run() {
  if (absl::Now() >= call_.deadline) return AnswerPinned(v1::MISS_CAUSE_DEADLINE);
  if (!settled_ && AskWhoComputes()) return;
  slots_until_ = std::min(call_.deadline, absl::Now() + kSlotWaitMax);
  acquired_.mutable_truth()->set_exact(true);
  PlanLocal();
  if (pinned_ + steps_.size() < names_.size()) {
    PlanRemote();
  }
  matched_ = static_cast<uint32_t>((pinned_ + steps_.size()) / parts_asked_);
  // Parts of a block that is not whole are of no use to anyone.
  if (const size_t whole = size_t{matched_} * parts_asked_; whole >= pinned_) steps_.resize(whole - pinned_);
  for (const std::shared_ptr<RemoteRun>& run : runs_) {
    RemoteRun::Start(run, parts_.transport, *parts_.registrations[session_->space().memory->arena_id], call_.deadline);
  }
  Answer();
  Bring();
  Finish();
}

// ---- Single flight ------------------------------------------------------------------------------------------------------

// Holds nothing but the pins of what is Ready: the wait may be long.
bool Fetcher::Fetch::AskWhoComputes() {
  size_t position = pinned_;
  while (position < names_.size() && pool_.Find(names_[position]) != BlockPool::Presence::kAbsent) ++position;
  size_t block = position / parts_asked_;
  causes_.assign(blocks(), v1::MISS_CAUSE_UNSPECIFIED);
  if (block < blocks()) {
    const absl::StatusOr<v1::MatchReply> reply = MatchFrom(block);
    settled_ = !reply.ok();
    if (settled_) return false;
    for (const v1::Miss& miss : reply->misses()) {
      std::fill_n(causes_.begin() + static_cast<ptrdiff_t>(block + miss.first()), miss.count(), miss.cause());
    }
    block += reply->matched_blocks();
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
  parts_.single_flight.Ask(std::move(want), [self = shared_from_this()](SingleFlight::Verdict verdict,
                                                                        const std::string& directory) {
    self->OnVerdict(verdict, directory);
  });
  return true;
}

void Fetcher::Fetch::OnVerdict(SingleFlight::Verdict verdict, const std::string& directory) {
  directory_ = directory;
  ours_ = verdict == SingleFlight::Verdict::kOurs;
  settled_ = verdict != SingleFlight::Verdict::kAgain || ++rounds_ == kRoundsMax;
  if (!queue_.TryPost([self = shared_from_this()] { self->Run(); })) AnswerPinned(v1::MISS_CAUSE_REFUSED);
}

absl::StatusOr<v1::MatchReply> Fetcher::Fetch::MatchFrom(size_t block) {
  const StageTimer timer(parts_.metrics, Stage::kMatch);
  std::vector<WantedPart> wanted;
  for (const uint32_t part : call_.chain.parts) wanted.push_back({.id = part});
  return parts_.directories.Match({.space = session_->space().fingerprint,
                                   .keys = std::span(call_.chain.keys).subspan(block),
                                   .parts = wanted,
                                   .first = directory_},
                                  call_.deadline);
}

// ---- Planning -----------------------------------------------------------------------------------------------------------

void Fetcher::Fetch::PlanLocal() {
  for (size_t position = pinned_; position < names_.size(); ++position) {
    Step step;
    switch (pool_.Find(names_[position])) {
      case BlockPool::Presence::kAbsent: return;
      case BlockPool::Presence::kDram:
        step.pinned = pool_.Pin(names_[position]);
        step.wait = !step.pinned.valid();  // it left for the SSD this moment
        break;
      case BlockPool::Presence::kFilling: step.wait = true; break;
      case BlockPool::Presence::kSsd: {
        absl::StatusOr<Filling> filling = pool_.BeginFill(names_[position], ParentOf(position), slots_until_);
        if (filling.ok()) {
          step.from_ssd = *std::move(filling);
        } else if (absl::IsAlreadyExists(filling.status())) {
          step.wait = true;
        } else {
          stopped_ = CauseOf(filling.status(), call_.deadline);
          return;
        }
      }
    }
    steps_.push_back(std::move(step));
  }
}

void Fetcher::Fetch::PlanRemote() {
  const size_t first_block = (pinned_ + steps_.size()) / parts_asked_;
  if (stopped_.has_value()) return PlanMisses(nullptr, first_block);
  const absl::StatusOr<v1::MatchReply> reply = MatchFrom(first_block);
  if (!reply.ok()) {
    acquired_.mutable_truth()->set_exact(false);
    stopped_ = absl::Now() >= call_.deadline ? v1::MISS_CAUSE_DEADLINE : v1::MISS_CAUSE_UNKNOWN;
    return PlanMisses(nullptr, first_block);
  }
  *acquired_.mutable_truth() = reply->truth();
  for (const v1::HolderRun& run : reply->runs()) {
    if (!PlanRun(*reply, run, first_block)) break;
  }
  PlanMisses(&*reply, first_block);
}

bool Fetcher::Fetch::PlanRun(const v1::MatchReply& reply, const v1::HolderRun& run, size_t first_block) {
  const v1::NodeAddress& holder = reply.holders(static_cast<int>(run.holder()));
  const size_t first = pinned_ + steps_.size();
  const size_t end = (first_block + run.first() + run.count()) * parts_asked_;
  if (end <= first) return true;
  absl::StatusOr<PeerLease> lease;
  const absl::Time asked = absl::Now();
  {
    const StageTimer timer(parts_.metrics, Stage::kLease);
    lease = parts_.peers.Lease(holder, std::span(names_).subspan(first, end - first), pool_.geometry(), call_.deadline);
  }
  if (!lease.ok()) {
    parts_.log.Warn("lease_failed", {{"peer", holder.node()}, {"request", call_.request}, {"why", lease.status().message()}});
    stopped_ = CauseOf(lease.status(), call_.deadline);
    if (IsLate(lease.status(), asked)) parts_.peer_reports.Count(holder.node(), PeerReports::Result::kLate);
    return false;
  }
  const auto leased = static_cast<size_t>(lease->reply.slots_size());
  const v1::MissCause short_of = lease->reply.has_miss() ? lease->reply.miss().cause() : v1::MISS_CAUSE_EVICTED;
  if (leased > 0) {
    auto remote = std::make_shared<RemoteRun>(*std::move(lease), pool_.geometry());
    runs_.push_back(remote);
    corrupt_.emplace_back();
    tallies_.push_back({.leased = asked});
    for (size_t i = 0; i < leased; ++i) {
      v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;
      if (!PlanRead(remote, i, &cause)) {
        stopped_ = cause;
        return false;
      }
    }
  }
  if (first + leased == end) return true;
  stopped_ = short_of == v1::MISS_CAUSE_UNSPECIFIED ? v1::MISS_CAUSE_EVICTED : short_of;
  return false;
}

bool Fetcher::Fetch::PlanRead(const std::shared_ptr<RemoteRun>& run, size_t leased, v1::MissCause* cause) {
  const size_t position = pinned_ + steps_.size();
  Step step;
  absl::StatusOr<Filling> filling = pool_.BeginFill(names_[position], ParentOf(position), slots_until_);
  if (filling.ok()) {
    step.run = run;
    step.op = run->Add(leased, *std::move(filling));
  } else if (absl::IsAlreadyExists(filling.status())) {
    step.pinned = pool_.Pin(names_[position]);
    step.wait = !step.pinned.valid();
  } else {
    *cause = CauseOf(filling.status(), call_.deadline);
    return false;
  }
  steps_.push_back(std::move(step));
  return true;
}

void Fetcher::Fetch::PlanMisses(const v1::MatchReply* reply, size_t first_block) {
  auto& misses = *acquired_.mutable_misses();
  const auto end = static_cast<uint32_t>(blocks());
  auto next = static_cast<uint32_t>((pinned_ + steps_.size()) / parts_asked_);
  if (stopped_.has_value() && next < end) {
    const bool all = reply == nullptr || *stopped_ == v1::MISS_CAUSE_NODE_LOST;
    uint32_t stopped_end = next + 1;
    if (reply == nullptr) stopped_end = end;
    if (reply != nullptr && all) {  // the whole run hung on that peer
      for (const v1::HolderRun& run : reply->runs()) {
        const auto run_end = static_cast<uint32_t>(first_block + run.first() + run.count());
        if (next < run_end) {
          stopped_end = run_end;
          break;
        }
      }
    }
    AppendMiss(misses, next, stopped_end - next, *stopped_);
    next = stopped_end;
    if (reply != nullptr) {  // the directory names holders for these, but the stem ends before them
      const auto named_end = static_cast<uint32_t>(first_block + reply->matched_blocks());
      if (next < named_end) AppendMiss(misses, next, named_end - next, v1::MISS_CAUSE_UNREACHABLE);
      next = std::max(next, named_end);
    }
  }
  if (reply == nullptr) return;
  const absl::Time now = absl::Now();
  for (const v1::Miss& miss : reply->misses()) {
    for (uint32_t block = static_cast<uint32_t>(first_block) + miss.first();
         block < first_block + miss.first() + miss.count(); ++block) {
      if (block < next) continue;
      const bool unheard = miss.cause() == v1::MISS_CAUSE_COLD || miss.cause() == v1::MISS_CAUSE_UNKNOWN;
      const bool soon = unheard && parts_.reservations.Reserved(names_[block * parts_asked_], now);
      // What this session computes itself is not `not_yet` to it.
      const bool own = ours_ && miss.cause() == v1::MISS_CAUSE_NOT_YET && causes_[block] != v1::MISS_CAUSE_UNSPECIFIED;
      const v1::MissCause cause = own ? causes_[block] : miss.cause();
      AppendMiss(misses, block, 1, soon ? v1::MISS_CAUSE_NOT_YET : cause, own ? 0 : miss.estimate_ms());
    }
  }
}

// ---- Answering ----------------------------------------------------------------------------------------------------------

void Fetcher::Fetch::Answer() {
  acquired_.set_matched_blocks(matched_);
  parts_.metrics.CountAsked(blocks());
  parts_.metrics.CountHits(v1::SOURCE_LOCAL_DRAM, std::min<uint64_t>(matched_, pinned_ / parts_asked_));
  for (const v1::Miss& miss : acquired_.misses()) parts_.metrics.CountMisses(miss.cause(), miss.count());
  parts_.metrics.Observe(Stage::kAcquire, absl::Now() - started_);
  parts_.log.Debug("acquired", {{"session", session_->id()},
                                {"request", call_.request},
                                {"blocks", blocks()},
                                {"matched", matched_},
                                {"pinned", pinned_ / parts_asked_},
                                {"runs", runs_.size()}});
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  *message.mutable_acquired() = std::move(acquired_);
  session_->Send(std::move(message));
}

// ---- Bringing -----------------------------------------------------------------------------------------------------------

void Fetcher::Fetch::Bring() {
  std::vector<absl::StatusOr<BlockPin>> promoted;  // of the positions from promoted_first on
  size_t promoted_first = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    const size_t position = pinned_ + i;
    if (pins_->released()) return;  // the client has left: what is on its way ends without it
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
      pin = BringOne(i, &source);
    }
    if (!pin.ok()) return Lose(position, pin.status());
    if (!Land(position, *std::move(pin), source)) return;
  }
  FlushLanded();
}

// Promotes the run of spilled blocks that starts at step `first`.
std::vector<absl::StatusOr<BlockPin>> Fetcher::Fetch::PromoteFrom(size_t first) {
  const StageTimer timer(parts_.metrics, Stage::kPromote);
  FlushLanded();
  std::vector<Filling> fillings;
  constexpr size_t kSweep = 16;  // what the client waits for at a time
  for (size_t i = first; i < steps_.size() && steps_[i].from_ssd.valid() && fillings.size() < kSweep; ++i) {
    fillings.push_back(std::move(steps_[i].from_ssd));
  }
  return parts_.promoter.Promote(pool_, std::move(fillings));
}

absl::StatusOr<BlockPin> Fetcher::Fetch::BringOne(size_t i, v1::Source* source) {
  Step& step = steps_[i];
  const BlockName& name = names_[pinned_ + i];
  if (step.pinned.valid()) return std::move(step.pinned);
  if (step.wait) return BringAwaited(pinned_ + i);
  RemoteRun& run = *step.run;
  const auto index = static_cast<size_t>(std::find(runs_.begin(), runs_.end(), step.run) - runs_.begin());
  tallies_[index].tried = true;
  if (!run.Finished(step.op)) FlushLanded();
  {
    const StageTimer timer(parts_.metrics, Stage::kRead);
    if (absl::Status read = run.WaitFor(step.op, call_.deadline); !read.ok()) {
      TallyFailure(index, read);
      return read;
    }
  }
  *source = run.from_ssd(step.op) ? v1::SOURCE_REMOTE_SSD : v1::SOURCE_REMOTE_DRAM;
  absl::StatusOr<BlockPin> pin;
  {
    const StageTimer timer(parts_.metrics, Stage::kProve);
    pin = run.Prove(step.op, name);
  }
  if (pin.ok()) parts_.metrics.AddBytes(run.mapped() ? BytePath::kSameHost : BytePath::kRemoteRead, pin->meta().length);
  if (absl::IsDataLoss(pin.status())) {
    corrupt_[index].push_back(name.key);
    TallyFailure(index, pin.status());
    parts_.metrics.CountIntegrityFailure("remote");
    parts_.log.Error("proof_failed", {{"peer", run.lease().node}, {"key", name.key.ToHex()}, {"why", pin.status().message()}});
  }
  return pin;
}

// A block that someone else brings; it may have gone on to the SSD before it could be pinned.
absl::StatusOr<BlockPin> Fetcher::Fetch::BringAwaited(size_t position) {
  FlushLanded();
  BlockPin pin = pool_.PinWhenFilled(names_[position], call_.deadline);
  if (pin.valid()) return pin;
  if (absl::Now() >= call_.deadline) return absl::DeadlineExceededError("the block did not become ready in time");
  if (pool_.Find(names_[position]) != BlockPool::Presence::kSsd) {
    return absl::CancelledError("whoever brought the block gave it up");
  }
  STEM_ASSIGN(Filling filling, pool_.BeginFill(names_[position], ParentOf(position), slots_until_));
  std::vector<Filling> fillings;
  fillings.push_back(std::move(filling));
  return std::move(parts_.promoter.Promote(pool_, std::move(fillings)).front());
}

bool Fetcher::Fetch::Land(size_t position, BlockPin pin, v1::Source source) {
  AppendSlot(*landed_.mutable_ready(), static_cast<uint32_t>(position), session_->space().memory->arena_id, pin, source);
  landed_bytes_ += pin.meta().length;
  if (!pins_->Put(static_cast<uint32_t>(position), std::move(pin))) return false;
  if ((position + 1) % parts_asked_ == 0) parts_.metrics.CountHits(source, 1);
  const auto& runs = landed_.ready();
  if (runs.Get(runs.size() - 1).slots_size() >= kLandedSlotsPerMessage || landed_bytes_ >= kLandedBytesPerMessage) FlushLanded();
  return true;
}

void Fetcher::Fetch::FlushLanded() {
  if (landed_.ready().empty()) return;
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  *message.mutable_landed() = std::move(landed_);
  landed_.Clear();
  landed_bytes_ = 0;
  session_->Send(std::move(message));
}

void Fetcher::Fetch::Lose(size_t position, const absl::Status& why) {
  FlushLanded();
  const auto left = static_cast<uint32_t>(position / parts_asked_);
  const v1::MissCause cause = CauseOf(why, call_.deadline);
  parts_.log.Warn("stem_broken", {{"request", call_.request}, {"block", left}, {"of", matched_}, {"why", why.message()}});
  v1::NodeMessage message;
  message.set_request_id(call_.id);
  message.mutable_lost()->set_matched_blocks(left);
  AppendMiss(*message.mutable_lost()->mutable_misses(), left, matched_ - left, cause);
  parts_.metrics.CountMisses(cause, matched_ - left);
  session_->Send(std::move(message));
}

void Fetcher::Fetch::TallyFailure(size_t run, const absl::Status& why) {
  RunTally& tally = tallies_[run];
  if (absl::IsDataLoss(why)) tally.result = PeerReports::Result::kCorrupt;
  else if (IsLate(why, tally.leased)) tally.result = PeerReports::Result::kLate;
  else tally.tried = false;  // says nothing of the peer
}

void Fetcher::Fetch::Finish() {
  for (size_t i = 0; i < runs_.size(); ++i) {
    parts_.peers.Return(runs_[i]->lease(), corrupt_[i]);
    if (tallies_[i].tried) parts_.peer_reports.Count(runs_[i]->lease().node, tallies_[i].result);
  }
  pool_.Touch(std::span(names_).first(size_t{matched_} * parts_asked_));
}

}  // namespace stem
