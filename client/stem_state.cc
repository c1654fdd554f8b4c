#include "client/stem_state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/session.h"
#include "proto/check.h"
#include "proto/miss_cause.h"

namespace stem {
namespace {

std::vector<MissRun> MissRuns(const google::protobuf::RepeatedPtrField<v1::Miss>& misses) {
  std::vector<MissRun> runs;
  runs.reserve(static_cast<size_t>(misses.size()));
  for (const v1::Miss& miss : misses)
    runs.push_back({.first = miss.first(), .count = miss.count(), .cause = miss.cause(), .estimate_ms = miss.estimate_ms()});
  return runs;
}

}  // namespace

StemState::StemState(Origin origin)
    : origin_(std::move(origin)), window_blocks_(WindowBlocksOf(origin_.memory->spec(), origin_.parts)) {}

StemState::~StemState() {
  const std::shared_ptr<Session> session = origin_.session.lock();
  if (session == nullptr || origin_.acquire_id == 0) return;
  std::vector<uint32_t> corrupt;
  {
    MutexLock lock(mutex_);
    corrupt.assign(corrupt_.begin(), corrupt_.end());
  }
  session->Release(origin_.acquire_id, corrupt, payloads_loaded());
}

bool StemState::Glance(std::span<const std::span<std::byte>> wanted) {
  const std::shared_ptr<const SessionMemory::Arenas> arenas = origin_.memory->arenas();
  MutexLock lock(mutex_);
  places_.resize(wanted.size());
  for (uint32_t position = 0; position < wanted.size(); ++position) {
    // The last block in any case: where it is held, all that it hangs on is.
    if (wanted[position].empty() && position / parts_asked() + 1 < chain_blocks()) continue;
    const BlockName name = expected(position, {}).name;
    for (const auto& arena : arenas->mapped) {
      const std::optional<SlotMap::Place> found = arena->Find(name);
      if (!found.has_value()) continue;
      if (arenas_.empty() || arenas_.back() != arena) arenas_.push_back(arena);
      places_[position] = {.arena = arena.get(),
                           .slot = found->slot,
                           .generation = found->generation,
                           .source = v1::SOURCE_LOCAL_DRAM,
                           .pinned = false};
      break;
    }
    if (places_[position].source == v1::SOURCE_UNSPECIFIED) return false;
  }
  loaded_ = std::make_unique<std::atomic<bool>[]>(places_.size());
  matched_ = chain_blocks();
  return true;
}

absl::Status StemState::OnAcquired(const v1::Acquired& message) {
  const std::shared_ptr<const SessionMemory::Arenas> arenas = origin_.memory->arenas();
  STEM_TRY(ValidateAcquired(message, chain_blocks(), parts_asked(), arenas->maps));
  MutexLock lock(mutex_);
  matched_ = message.matched_blocks();
  places_.resize(size_t{matched_} * parts_asked());
  loaded_ = std::make_unique<std::atomic<bool>[]>(places_.size());
  misses_ = MissRuns(message.misses());
  truth_ = message.truth();
  difference_ = message.difference();
  return Settle(message.ready(), *arenas);
}

absl::Status StemState::OnLanded(const v1::Landed& message) {
  const std::shared_ptr<const SessionMemory::Arenas> arenas = origin_.memory->arenas();
  std::vector<std::function<void()>> wakes;
  {
    MutexLock lock(mutex_);
    for (const v1::SlotRun& run : message.ready()) {
      STEM_TRY(ValidateSlotRun(run, places_.size(), arenas->maps));
    }
    STEM_TRY(Settle(message.ready(), *arenas));
    wakes.swap(wakes_);
    changed_.NotifyAll();
  }
  for (const auto& wake : wakes) wake();
  return absl::OkStatus();
}

absl::Status StemState::OnLost(const v1::Lost& message) {
  std::vector<std::function<void()>> wakes;
  {
    MutexLock lock(mutex_);
    STEM_TRY(ValidateLost(message, matched_));
    if (message.matched_blocks() < matched_) origin_.counters->stems_broken++;
    matched_ = message.matched_blocks();
    std::vector<MissRun> lost = MissRuns(message.misses());
    misses_.insert(misses_.begin(), lost.begin(), lost.end());
    wakes.swap(wakes_);
    changed_.NotifyAll();
  }
  for (const auto& wake : wakes) wake();
  return absl::OkStatus();
}

void StemState::OnGone(const absl::Status& why) {
  std::vector<std::function<void()>> wakes;
  {
    MutexLock lock(mutex_);
    gone_ = why;
    wakes.swap(wakes_);
    changed_.NotifyAll();
  }
  for (const auto& wake : wakes) wake();
}

absl::Status StemState::Settle(const google::protobuf::RepeatedPtrField<v1::SlotRun>& runs, const SessionMemory::Arenas& arenas) {
  for (const v1::SlotRun& run : runs) {
    if (run.source() < v1::SOURCE_LOCAL_DRAM || run.source() > v1::SOURCE_REMOTE_SSD) {
      return absl::InvalidArgumentError(
          absl::StrCat("source is ", static_cast<int>(run.source()), "; it must be 1 to 4"));
    }
    const std::shared_ptr<const MappedArena>& arena = arenas.Find(run.arena());
    if (arena->withdrawn()) {  // the answer crossed its withdrawal
      gone_ = absl::UnavailableError(absl::StrCat("node ", arena->lender(), ", in whose memory the blocks lay, is gone"));
      continue;
    }
    if (arenas_.empty() || arenas_.back() != arena) arenas_.push_back(arena);
    for (int i = 0; i < run.slots_size(); ++i) {
      Place& place = places_[run.first() + static_cast<uint32_t>(i)];
      if (place.source != v1::SOURCE_UNSPECIFIED) {
        return absl::InvalidArgumentError(
            absl::StrCat("position is ", run.first() + static_cast<uint32_t>(i), "; it has landed before"));
      }
      place = {
          .arena = arena.get(), .slot = run.slots(i), .generation = run.generations(i), .source = run.source()};
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<StemState::Place>> StemState::Look(uint32_t position) const {
  MutexLock lock(mutex_);
  return LookLocked(position);
}

absl::StatusOr<std::optional<StemState::Place>> StemState::LookLocked(uint32_t position) const {
  const uint32_t block = position / parts_asked();
  if (block >= matched_) return LostStatus(block);
  const Place& place = places_[position];
  if (place.source != v1::SOURCE_UNSPECIFIED) return place;
  if (!NeedsLocked(position)) {
    return absl::OutOfRangeError(absl::StrCat("part ", origin_.parts[position % parts_asked()], " of block ", block,
                                              " lies before its window: a stem of ", matched_, " blocks has it of the last ",
                                              window_blocks_[position % parts_asked()], " alone"));
  }
  if (!gone_.ok()) return gone_;
  return std::optional<Place>();
}

absl::Status StemState::LostStatus(uint32_t block) const {
  if (size_t{block} * parts_asked() >= places_.size()) {
    return absl::OutOfRangeError(
        absl::StrCat("block ", block, " was not matched; the stem has ", matched_, " of ", chain_blocks(), " blocks"));
  }
  for (const MissRun& run : misses_) {
    if (block < run.first || block - run.first >= run.count) continue;
    const std::string why = absl::StrCat("block ", block, " was promised and is lost: ", CauseName(run.cause));
    if (run.cause == v1::MISS_CAUSE_DEADLINE) return absl::DeadlineExceededError(why);
    if (run.cause == v1::MISS_CAUSE_INTEGRITY) return absl::DataLossError(why);
    return absl::UnavailableError(why);
  }
  STEM_CHECK(false && "misses cover every block beyond the match");
  return absl::OkStatus();
}

absl::Status StemState::AwaitDecided(uint32_t position, const Deadline& deadline) {
  MutexLock lock(mutex_);
  while (true) {
    const absl::StatusOr<std::optional<Place>> place = LookLocked(position);
    if (!place.ok() || place->has_value()) return absl::OkStatus();
    const absl::Duration left = deadline.left();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("block ", position / parts_asked(), " did not land before the deadline"));
    }
    changed_.WaitFor(mutex_, left);
  }
}

bool StemState::WakeWhenDecided(uint32_t position, std::function<void()> wake) {
  MutexLock lock(mutex_);
  const absl::StatusOr<std::optional<Place>> place = LookLocked(position);
  if (!place.ok() || place->has_value()) return false;
  wakes_.push_back(std::move(wake));
  return true;
}

Expected StemState::expected(uint32_t position, const Place& place) const {
  const uint32_t part = origin_.parts[position % parts_asked()];
  return {.name = {.space = origin_.memory->space(), .key = PartKey(origin_.keys[position / parts_asked()], part)},
          .generation = place.generation,
          .length = payload_bytes(position)};
}

uint64_t StemState::payload_bytes(uint32_t position) const {
  return origin_.memory->spec().part(origin_.parts[position % parts_asked()])->block_bytes;
}

bool StemState::needs(uint32_t position) const {
  MutexLock lock(mutex_);
  return position / parts_asked() < matched_ && NeedsLocked(position);
}

bool StemState::NeedsLocked(uint32_t position) const {
  return window_blocks_.empty() || IsNeeded(window_blocks_[position % parts_asked()], position / parts_asked(), matched_);
}

void StemState::MarkCorrupt(uint32_t position) {
  origin_.counters->proofs_failed++;
  MutexLock lock(mutex_);
  corrupt_.insert(position);
}

void StemState::MarkLoaded(uint32_t position) {
  if (!loaded_[position].exchange(true, std::memory_order_relaxed)) payloads_loaded_.fetch_add(1, std::memory_order_relaxed);
}

bool StemState::session_lives() const {
  const std::shared_ptr<Session> session = origin_.session.lock();
  return session != nullptr && session->lives();
}

uint32_t StemState::matched_blocks() const {
  MutexLock lock(mutex_);
  return matched_;
}

uint32_t StemState::landed_blocks() const {
  MutexLock lock(mutex_);
  uint32_t landed = 0;
  while (landed < matched_) {
    for (uint32_t part = 0; part < parts_asked(); ++part) {
      const uint32_t position = landed * parts_asked() + part;
      if (places_[position].source == v1::SOURCE_UNSPECIFIED && NeedsLocked(position)) return landed;
    }
    ++landed;
  }
  return landed;
}

v1::Source StemState::source(uint32_t block) const {
  MutexLock lock(mutex_);
  v1::Source slowest = v1::SOURCE_UNSPECIFIED;
  for (uint32_t position = block * parts_asked(); position < (block + 1) * parts_asked(); ++position) {
    if (position >= places_.size()) return v1::SOURCE_UNSPECIFIED;
    if (places_[position].source == v1::SOURCE_UNSPECIFIED && block < matched_ && !NeedsLocked(position)) continue;
    slowest = std::max(slowest, places_[position].source);
  }
  return slowest;
}

std::vector<MissRun> StemState::misses() const {
  MutexLock lock(mutex_);
  return misses_;
}

v1::Difference StemState::difference() const {
  MutexLock lock(mutex_);
  return difference_;
}

v1::Truth StemState::truth() const {
  MutexLock lock(mutex_);
  return truth_;
}

}  // namespace stem
