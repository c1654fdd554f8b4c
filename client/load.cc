#include "client/load.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"
#include "proto/check.h"

namespace stem {

Loader::Loader(std::shared_ptr<StemState> stem, uint32_t first_block,
               std::span<const std::span<std::byte>> destinations, LocalProof proof, LoadShare share)
    : stem_(std::move(stem)),
      first_block_(first_block),
      destinations_(destinations),
      proof_(proof),
      stride_(share.count),
      next_(share.index),
      status_(Check()) {}

absl::Status Loader::Check() const {
  const size_t parts = stem_->parts_asked();
  if (destinations_.size() % parts != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the number of destinations is ", destinations_.size(),
                                                   "; it must be a multiple of the ", parts, " parts asked for"));
  }
  if (first_block_ + destinations_.size() / parts > stem_->chain_blocks()) {
    return absl::OutOfRangeError(absl::StrCat("blocks ", first_block_, " to ",
                                              first_block_ + destinations_.size() / parts,
                                              " were asked for; the chain has ", stem_->chain_blocks()));
  }
  for (size_t i = 0; i < destinations_.size(); ++i) {
    const uint64_t bytes = stem_->payload_bytes(static_cast<uint32_t>(i));
    if (destinations_[i].empty() || destinations_[i].size() == bytes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("destination ", i, " has ", destinations_[i].size(), " bytes; its part has ", bytes));
  }
  return absl::OkStatus();
}

std::optional<uint32_t> Loader::Step(const Deadline& deadline) {
  for (; status_.ok() && next_ < destinations_.size(); next_ += stride_) {
    if (destinations_[next_].empty()) continue;
    if (deadline.passed()) {
      Fail(absl::DeadlineExceededError(absl::StrCat("the deadline passed with ", destinations_.size() - next_, " of ",
                                                    destinations_.size(), " payloads to load")));
      break;
    }
    const uint32_t position = first_block_ * stem_->parts_asked() + static_cast<uint32_t>(next_);
    const absl::StatusOr<std::optional<StemState::Place>> place = stem_->Look(position);
    if (!place.ok()) {
      Fail(place.status());
      break;
    }
    if (!place->has_value()) return position;
    if (absl::Status copied = Copy(position, **place, destinations_[next_]); !copied.ok()) {
      Fail(std::move(copied));
      break;
    }
  }
  return std::nullopt;
}

namespace {

// A failed proof: of a slot whose lease has ended it says nothing of the owner's copy, else the node is told.
absl::Status ProofFailed(StemState& stem, uint32_t position, const StemState::Place& place, absl::Status why) {
  if (place.arena->lent() && !CheckHeader(StemState::slot(place).header(), stem.expected(position, place)).ok()) {
    return absl::UnavailableError(absl::StrCat("node ", place.arena->lender(), " has taken back what it leased: ", why.message()));
  }
  if (place.pinned) stem.MarkCorrupt(position);  // else it is asked for, and proved once more
  return why;
}

}  // namespace

absl::Status Loader::Copy(uint32_t position, const StemState::Place& place, std::span<std::byte> destination) {
  const Expected expected = stem_->expected(position, place);
  const SlotView<const std::byte> slot = StemState::slot(place);
  absl::Status proved = absl::OkStatus();
  bool by_header = proof_ == LocalProof::kHeader && !place.arena->lent();
  if (by_header) {
    proved = CopyUnderHeader(slot, expected, destination);
    // Without the session there is no pin, and only the digest can tell.
    by_header = stem_->session_lives();
  }
  if (!by_header && proved.ok()) {
    chunk_hashes_.resize(ChunkCount(expected.length));
    proved = CopyProved(slot, expected, destination, chunk_hashes_);
  }
  if (!place.pinned && !place.arena->Holds({.slot = place.slot, .generation = place.generation})) {
    return absl::UnavailableError(absl::StrCat("block ", position / stem_->parts_asked(), " left this node while it was copied"));
  }
  if (!proved.ok()) return ProofFailed(*stem_, position, place, std::move(proved));
  stem_->MarkLoaded(position);
  stem_->counters().payloads_loaded[place.source]++;
  stem_->counters().bytes_loaded[place.source] += destination.size();
  return absl::OkStatus();
}

LoadResult Loader::result() const {
  const size_t reached = std::min(next_, destinations_.size());
  return {.blocks_loaded = static_cast<uint32_t>(reached / stem_->parts_asked()), .status = status_};
}

namespace {

// Steps to the end, waiting in between.
void LoadNow(Loader& loader, const Deadline& deadline) {
  while (const std::optional<uint32_t> position = loader.Step(deadline)) {
    if (absl::Status waited = loader.stem().AwaitDecided(*position, deadline); !waited.ok()) {
      loader.Fail(std::move(waited));
      break;
    }
  }
}

// The shares of one load, and who works on each.
class SharedLoad {
 public:
  SharedLoad(const std::function<Loader(LoadShare)>& load, size_t count, const Deadline& deadline) : deadline_(deadline) {
    shares_.reserve(count);
    for (size_t index = 0; index < count; ++index) shares_.push_back({.loader = load({.index = index, .count = count})});
  }

  // For the executor: goes on with a free share until it has ended, or would have to wait. After the load has ended it finds none.
  void Help(size_t index) {
    if (!TakeShare(index)) return;
    Leave(index, !shares_[index].loader.Step(deadline_).has_value());
  }

  // For the caller: ends every share.
  LoadResult Finish() {
    for (size_t index = 0; index < shares_.size(); ++index) {
      if (!TakeOrAwait(index)) continue;
      LoadNow(shares_[index].loader, deadline_);
      Leave(index, true);
    }
    MutexLock lock(mutex_);
    LoadResult least = shares_.front().loader.result();
    for (const Share& share : shares_) {
      LoadResult result = share.loader.result();
      if (std::pair(result.blocks_loaded, result.status.ok()) < std::pair(least.blocks_loaded, least.status.ok())) least = std::move(result);
    }
    return least;
  }

 private:
  struct Share {
    Loader loader;
    bool taken = false;
    bool ended = false;
  };

  bool TakeShare(size_t index) {
    MutexLock lock(mutex_);
    if (shares_[index].taken || shares_[index].ended) return false;
    return shares_[index].taken = true;
  }
  // False when it has ended; who works on it does not wait.
  bool TakeOrAwait(size_t index) {
    MutexLock lock(mutex_);
    Share& share = shares_[index];
    while (share.taken) changed_.Wait(mutex_);
    return share.taken = !share.ended;
  }
  void Leave(size_t index, bool ended) {
    MutexLock lock(mutex_);
    shares_[index].taken = false;
    shares_[index].ended = ended;
    changed_.NotifyAll();
  }

  const Deadline deadline_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Share> shares_;  // a loader is of whoever took its share
};

}  // namespace

LoadResult LoadShared(const std::function<Loader(LoadShare)>& load, uint64_t bytes, uint32_t threads, Executor& executor,
                      const Deadline& deadline) {
  constexpr uint64_t kBytesPerThreadMin = 1 << 20;
  const auto count = static_cast<size_t>(std::clamp<uint64_t>(bytes / kBytesPerThreadMin, 1, threads));
  const auto shared = std::make_shared<SharedLoad>(load, count, deadline);
  for (size_t index = 1; index < count; ++index) {
    if (!executor.Post([shared, index] { shared->Help(index); })) break;
  }
  return shared->Finish();
}

absl::Status LoadRanges(StemState& stem, uint32_t position, std::span<const PayloadRange> ranges, const Deadline& deadline) {
  STEM_TRY(stem.AwaitDecided(position, deadline));
  STEM_ASSIGN(const std::optional<StemState::Place> place, stem.Look(position));
  const Expected expected = stem.expected(position, *place);  // decided, and a place never leaves again
  uint64_t bytes = 0;
  for (const PayloadRange& range : ranges) {
    bytes += range.destination.size();
    if (range.offset <= expected.length && range.destination.size() <= expected.length - range.offset) continue;
    return absl::OutOfRangeError(absl::StrCat("bytes ", range.offset, " to ", range.offset + range.destination.size(),
                                              " were asked for; the payload has ", expected.length));
  }
  std::vector<uint64_t> chunk_hashes(ChunkCount(expected.length));
  absl::Status proved = CopyRangesProved(StemState::slot(*place), expected, ranges, chunk_hashes);
  if (!proved.ok()) return ProofFailed(stem, position, *place, std::move(proved));
  stem.MarkLoaded(position);
  stem.counters().bytes_loaded[place->source] += bytes;
  return absl::OkStatus();
}

LoadTask::LoadTask(Loader loader, const Deadline& deadline, Executor& executor, Timers& timers,
                   std::function<void(LoadResult)> done)
    : loader_(std::move(loader)), deadline_(deadline), executor_(executor), timers_(timers), done_(std::move(done)) {}

bool LoadTask::Start() {
  MutexLock lock(mutex_);
  phase_ = Phase::kRunning;
  if (!executor_.Post([self = shared_from_this()] { self->Run(); })) return false;
  timer_ = timers_.At(deadline_, [self = shared_from_this()] { self->Wake(); });
  return true;
}

void LoadTask::Wake() {
  MutexLock lock(mutex_);
  if (phase_ == Phase::kRunning) phase_ = Phase::kRunAgain;
  if (phase_ != Phase::kIdle) return;
  phase_ = Phase::kRunning;
  // Loads are fewer than the executor's places, and it stops only after every load has ended.
  STEM_CHECK(executor_.Post([self = shared_from_this()] { self->Run(); }));
}

void LoadTask::Run() {
  while (true) {
    const bool ended = StepOnce();
    MutexLock lock(mutex_);
    if (ended) {
      phase_ = Phase::kDone;
      if (timer_.has_value()) timers_.Cancel(*timer_);
      break;
    }
    if (phase_ == Phase::kRunning) {
      phase_ = Phase::kIdle;
      return;
    }
    phase_ = Phase::kRunning;
  }
  done_(loader_.result());
}

bool LoadTask::StepOnce() {
  while (const std::optional<uint32_t> position = loader_.Step(deadline_)) {
    // Weak, as the stem may outlive the load that its deadline ended, and the load keeps the stem.
    const auto wake = [weak = weak_from_this()] {
      if (const std::shared_ptr<LoadTask> self = weak.lock()) self->Wake();
    };
    if (loader_.stem().WakeWhenDecided(*position, wake)) return false;
  }
  return true;
}

}  // namespace stem
