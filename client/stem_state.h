// What one Acquire is: which slots it pins, what is still to land, what was lost. Its destruction is the Release.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "client/counters.h"
#include "client/deadline.h"
#include "client/proof.h"
#include "client/session_memory.h"
#include "client/stem.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {

class Session;

// Threads: any. Its session's reader brings the messages.
class StemState {
 public:
  // What was asked, and of whom.
  struct Origin {
    std::weak_ptr<Session> session;
    std::shared_ptr<SessionMemory> memory;
    std::shared_ptr<Counters> counters;
    uint64_t acquire_id = 0;  // 0 = nothing was acquired: see Glance
    std::vector<BlockKey> keys;
    std::vector<uint32_t> parts;  // ids, known to the namespace
  };

  // Where a position landed.
  struct Place {
    const MappedArena* arena = nullptr;  // lives as long as the stem
    uint32_t slot = 0;
    uint64_t generation = 0;
    v1::Source source = v1::SOURCE_UNSPECIFIED;  // UNSPECIFIED = has not landed
    bool pinned = true;  // until the stem ends; else it may leave at any time, and its arena knows
  };

  explicit StemState(Origin origin);
  ~StemState();
  StemState(const StemState&) = delete;
  StemState& operator=(const StemState&) = delete;

  // Finds the whole chain in the node's own memory, without a call: its last block, and of the others what has a place in `wanted`, by
  // position. False when it is not all there. Nothing is pinned. Once, instead of an answer.
  bool Glance(std::span<const std::span<std::byte>> wanted);

  // The node's answer, once and first. Errors, here and below: InvalidArgument (validation refuses the message).
  absl::Status OnAcquired(const v1::Acquired& message);
  absl::Status OnLanded(const v1::Landed& message);
  absl::Status OnLost(const v1::Lost& message);
  // Nothing more will land, because of `why`.
  void OnGone(const absl::Status& why);

  // The place of a position, or nothing while it may still land. Errors: OutOfRange (beyond the match); lost, by cause:
  // DeadlineExceeded, DataLoss, Unavailable.
  absl::StatusOr<std::optional<Place>> Look(uint32_t position) const;
  // Waits until Look() says more than nothing. Errors: DeadlineExceeded.
  absl::Status AwaitDecided(uint32_t position, const Deadline& deadline);
  // Runs `wake` once something changed, on the session's reader; false, and never, when the position is decided.
  bool WakeWhenDecided(uint32_t position, std::function<void()> wake);

  // What the slot of `position` must hold, and the slot.
  Expected expected(uint32_t position, const Place& place) const;
  static SlotView<const std::byte> slot(const Place& place) { return place.arena->slot(place.slot); }
  uint64_t payload_bytes(uint32_t position) const;
  // False for a part that lies before its window: it does not land.
  bool needs(uint32_t position) const;

  // What became of a position's payload: told to the node on release.
  void MarkCorrupt(uint32_t position);
  void MarkLoaded(uint32_t position);
  uint32_t payloads_loaded() const { return payloads_loaded_.load(std::memory_order_relaxed); }
  // False once its session ended: its pins may be gone.
  bool session_lives() const;

  uint32_t chain_blocks() const { return static_cast<uint32_t>(origin_.keys.size()); }
  uint32_t parts_asked() const { return static_cast<uint32_t>(origin_.parts.size()); }
  Counters& counters() const { return *origin_.counters; }
  uint32_t matched_blocks() const;
  uint32_t landed_blocks() const;
  v1::Source source(uint32_t block) const;
  std::vector<MissRun> misses() const;
  v1::Truth truth() const;
  v1::Difference difference() const;

 private:
  absl::Status Settle(const google::protobuf::RepeatedPtrField<v1::SlotRun>& runs, const SessionMemory::Arenas& arenas)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::optional<Place>> LookLocked(uint32_t position) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool NeedsLocked(uint32_t position) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status LostStatus(uint32_t block) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Origin origin_;
  const std::vector<uint32_t> window_blocks_;  // by part asked for; empty = every part of every block is needed
  std::unique_ptr<std::atomic<bool>[]> loaded_;  // by position promised at first; set with the answer
  std::atomic<uint32_t> payloads_loaded_{0};

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::shared_ptr<const MappedArena>> arenas_ ABSL_GUARDED_BY(mutex_);  // that places_ name
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // by position; as many as were promised at first
  uint32_t matched_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<MissRun> misses_ ABSL_GUARDED_BY(mutex_);
  v1::Truth truth_ ABSL_GUARDED_BY(mutex_);
  v1::Difference difference_ ABSL_GUARDED_BY(mutex_);
  std::set<uint32_t> corrupt_ ABSL_GUARDED_BY(mutex_);
  absl::Status gone_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> wakes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
