// One Acquire on its way through the node: what is here is pinned, the rest planned (fetch_plan.cc; fetch_windows.cc chooses where a stem with
// window or state groups ends), the client answered (fetch.cc), and the planned brought and told of as it lands (fetch_bring.cc).
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/node/fetch/fetcher.h"
#include "services/node/peers/lent_run.h"
#include "services/node/peers/remote_run.h"
#include "services/node/records/acquire_outcome.h"
#include "services/node/records/slot_runs.h"

namespace stem {

// What BringRates calls the places that blocks come from.
inline constexpr char kOwnSsd[] = "ssd";
std::string PlaceOf(const std::string& peer, bool from_ssd);

// Why blocks are missed whose bringing failed with `status`.
v1::MissCause CauseOf(const absl::Status& status, absl::Time deadline);
// Whether a peer is to blame that was asked at `asked`: it cannot be reached, or was silent for long enough that an impatient
// caller is not the reason.
bool IsLate(const absl::Status& status, absl::Time asked);

// One Acquire. Runs on one thread at a time. A position is a block's part: block * parts + index of the part. What is planned are the needed
// positions, by index: all of them, unless the namespace has window or state groups.
class Fetch : public std::enable_shared_from_this<Fetch> {
 public:
  Fetch(const Fetcher::Parts& parts, WorkQueue& queue, std::shared_ptr<Session> session, AcquireCall call,
        std::shared_ptr<AcquirePins> pins);

  // Pins the leading positions that are Ready here. True when that is all of them.
  bool PinReady();
  // Plans, answers, brings; or asks who computes what is missing, and is called again when that is settled.
  void Run();
  // Answers with what PinReady found.
  void AnswerPinned(v1::MissCause cause_of_the_rest);

 private:
  struct Step {  // how a planned position comes: one of these
    BlockPin pinned;
    BlockAwait awaited;  // another fetch or a publish brings it
    Filling from_ssd;
    std::shared_ptr<RemoteRun> run;
    size_t op = 0;
    bool lent = false;  // the client reads it in a host peer's memory
    v1::Source lent_from = v1::SOURCE_UNSPECIFIED;
  };

  struct Aside {  // brought for others alone
    BlockName name;
    Step step;
  };

  struct LentStretch {  // the indices from `first` on
    size_t first = 0;
    std::shared_ptr<LentRun> run;
  };

  struct RunTally {  // of runs_: as its peer is told of, and what it teaches
    bool tried = false;
    PeerReports::Result result = PeerReports::Result::kGood;
    absl::Time leased;
    uint64_t bytes = 0;  // that came
    absl::Time last;     // when the last of them did
    std::optional<size_t> read;   // step, where there is something to wait for
    std::optional<size_t> prove;  // step
  };

  // True: somebody was asked, and Run will be called again, maybe already.
  bool AskWhoComputes();
  void OnVerdict(const SingleFlight::Answer& answer);
  absl::StatusOr<v1::MatchReply> MatchFrom(size_t block);
  void TallyFailure(size_t run, const absl::Status& why);
  // What the step of run's reads or proofs, opened at `begin` if it was not, gained by one block. Returns the time.
  absl::Time NotePiece(std::optional<size_t>& step, Stage stage, size_t run, absl::Time begin, const absl::Status& status, uint64_t bytes);
  // Fetch or recompute: finds worth_blocks_ when the engine told its speed.
  void Appraise();
  size_t worth_end() const { return windowed() ? names_.size() : worth_blocks_ * parts_asked_; }
  // Of a windowed namespace: names_ become what a stem of so many blocks needs; of the longest stem there is; and, when that did not come about, of
  // what is here alone, planned anew.
  uint32_t LocalStem() const;
  void Need(uint32_t stem_blocks);
  void ChooseStem();
  void PlanLocalStem();
  void PlanLocal();
  void PlanRemote();
  // The client has mapped the holder's memory.
  bool ReadsInPlace(const v1::NodeAddress& holder) const;
  // True when the client can read all of `reply` in place. A part would not do: what this node is to hold needs parents here (law 7).
  bool MayLend(const v1::MatchReply& reply) const;
  bool PlanRun(const v1::MatchReply& reply, const v1::HolderRun& run, size_t first_block);
  // Of a lease that was asked for.
  void NoteLease(size_t step, const std::string& peer, size_t keys, const absl::StatusOr<PeerLease>& lease);
  void PlanLent(const v1::NodeAddress& holder, PeerLease lease);
  // Plans the next index as brought by `run`, which leased it as its slot `leased`. False: it cannot be.
  bool PlanRead(const std::shared_ptr<RemoteRun>& run, size_t leased, v1::MissCause* cause);
  // Plans what is Ready, or on its way for another. False: it is neither.
  bool PlanPresent(size_t index, Step* step);
  void PlanMisses(const v1::MatchReply* reply, size_t first_block);
  ReadableSlot Readable(const BlockPin& pin, v1::Source source) const;
  void AnswerLent(const LentStretch& lent);
  void Answer();
  void StartReads();
  void Bring();
  // Law 4: the steps from `first` on are not for this client. What others await of them is kept for BringAside, the rest given up.
  void SetAside(size_t first);
  void BringAside();
  absl::StatusOr<BlockPin> BringOne(Step& step, const BlockName& name, v1::Source* source);
  absl::StatusOr<BlockPin> BringAwaited(const BlockName& name);
  std::vector<absl::StatusOr<BlockPin>> PromoteFrom(size_t first);
  bool Land(size_t index, BlockPin pin, v1::Source source);
  // A payload that the client gets; a block is a hit with its last part.
  void CountHit(size_t index, v1::Source source, uint64_t bytes);
  void FlushLanded();
  void Lose(size_t index, const absl::Status& why);
  void LearnRates();
  // What is at `index` is here. A block counts once its last part is, as from where its slowest came.
  void NoteHit(size_t index, v1::Source source);
  // Counts what became of every block: before the last message goes, so that who has it sees it counted.
  void Conclude();
  // Tells the same to the request's record, after Conclude.
  void RecordOutcome();
  void Finish();

  size_t blocks() const { return call_.chain.keys.size(); }
  bool windowed() const { return !window_blocks_.empty(); }
  BlockName NameOf(size_t block, size_t part) const {
    return {session_->space().fingerprint, PartKey(call_.chain.keys[block], call_.chain.parts[part])};
  }
  uint32_t PositionOf(size_t index) const { return windowed() ? positions_[index] : static_cast<uint32_t>(index); }
  uint32_t BlockOf(size_t index) const { return PositionOf(index) / static_cast<uint32_t>(parts_asked_); }
  // The first index of `block`, or of what follows.
  size_t IndexOf(size_t block) const;
  // The last of its block that is needed.
  bool EndsBlock(size_t index) const;
  // Law 7: what must be here before. Nothing, of window and state groups.
  std::optional<BlockKey> ParentOf(size_t index) const;
  bool planned_whole() const { return pinned_ + steps_.size() == names_.size(); }
  // The stem as planned so far.
  size_t planned_blocks() const;

  const Fetcher::Parts& parts_;
  WorkQueue& queue_;
  const std::shared_ptr<Session> session_;
  const AcquireCall call_;
  const std::shared_ptr<AcquirePins> pins_;
  BlockPool& pool_;
  const size_t parts_asked_;
  RequestTrace trace_;
  absl::Time slots_until_;
  bool settled_;             // who computes what is missing, or nobody asked
  int rounds_ = 0;           // of asking
  bool ours_ = false;        // this session computes it
  std::string directory_;    // that knows of intents; empty = any
  absl::Time asked_;         // who computes
  std::optional<size_t> awaited_;  // step, of what another brings
  std::vector<v1::MissCause> causes_;  // by block, of what was missing before this session said that it computes it
  google::protobuf::RepeatedPtrField<v1::NamespaceSpec> known_as_;  // with a cause INCOMPATIBLE among them
  std::vector<uint32_t> window_blocks_;  // by part asked for; empty when all are of full attention
  uint32_t stem_blocks_ = 0;      // that names_ make up; of a windowed namespace 0 until it is chosen
  std::vector<BlockName> names_;  // by index
  std::vector<uint32_t> positions_;  // by index; empty when they are the same
  size_t pinned_ = 0;             // leading indices pinned by PinReady
  uint64_t pinned_bytes_ = 0;
  std::vector<Step> steps_;       // planned indices, from pinned_ on
  std::deque<Aside> aside_;       // chain order
  bool lend_ = false;             // what the directory names
  std::vector<LentStretch> lent_;
  std::vector<std::shared_ptr<RemoteRun>> runs_;
  std::vector<std::vector<BlockKey>> corrupt_;  // by run
  std::vector<RunTally> tallies_;               // by run
  AcquireOutcome outcome_;
  v1::Source slowest_ = v1::SOURCE_UNSPECIFIED;  // of the parts so far of block slowest_of_
  uint32_t slowest_of_ = UINT32_MAX;
  bool concluded_ = false;
  absl::Time reads_began_;
  RefusedReason refused_why_ = RefusedReason::kQueueFull;
  v1::Acquired acquired_;
  v1::Landed landed_;
  uint64_t landed_bytes_ = 0;  // of it
  size_t worth_blocks_;          // those beyond are sooner computed than brought
  std::optional<absl::StatusOr<v1::MatchReply>> match_;  // the directory's word on the blocks from asked_from_ on
  size_t asked_from_ = 0;
  uint32_t matched_ = 0;
  std::optional<v1::MissCause> stopped_;  // why planning stopped before the directory's misses begin
};

}  // namespace stem
