// Which holders have which blocks. Keyed by 64-bit index fingerprints, so an answer is a hint and never a proof.
// A holder is a slot: a number lent to one state of one node. What a slot says is never edited as a whole: a node
// that restarts or resyncs fills a new slot, and the old one is closed, which takes all it said out of sight at once;
// Step() then reclaims it in the background. What left its last slot becomes a ghost that remembers why.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "proto/mutex.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

using NodeSlot = uint16_t;

// One tenancy of a slot: outlived handles change nothing.
struct SlotHandle {
  NodeSlot slot = 0;
  uint32_t generation = 0;

  friend bool operator==(const SlotHandle&, const SlotHandle&) = default;
};

struct Holder {
  NodeSlot slot = 0;
  uint8_t tier = 0;  // a stemcache::v1::Tier; the greater, the slower
};
using HolderList = absl::InlinedVector<Holder, 4>;

// Why a slot was closed, and so why what only it held is gone.
enum class SlotEnd : uint8_t {
  kLost,        // the node died or fell silent: node_lost
  kSuperseded,  // a newer snapshot lacks it, and no one heard why: unknown
};

class PrefixIndex {
 public:
  static constexpr size_t kSlotsMax = 4096;

  // ghosts_max: departures that are remembered; the oldest are forgotten first.
  explicit PrefixIndex(uint64_t ghosts_max);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Threads: all methods, any.

  // Errors: ResourceExhausted when all slots are lent or not yet reclaimed.
  absl::StatusOr<SlotHandle> OpenSlot();
  // What the slot said is out of sight when this returns. Closing twice changes nothing.
  void CloseSlot(SlotHandle handle, SlotEnd end);

  // The slot now has the block in `tier` and nowhere else. Nothing happens when the slot is closed.
  void Add(SlotHandle handle, uint64_t fingerprint, stemcache::v1::Tier tier);
  // Forgets it; `cause` is remembered when no other slot has it. Absent blocks and closed slots change nothing.
  void Remove(SlotHandle handle, uint64_t fingerprint, stemcache::v1::MissCause cause);

  struct Found {
    HolderList holders;  // open slots that have it
    // Why not, when `holders` is empty: a ghost's cause; UNKNOWN when ghosts were forgotten; else COLD.
    stemcache::v1::MissCause cause = stemcache::v1::MISS_CAUSE_COLD;
  };
  void Find(uint64_t fingerprint, Found& found) const;

  // Reclaims closed slots in a share of the index, for some 10 us per thousand blocks of it. Returns false when
  // nothing is left to do. A slot is lent again only after a whole round.
  bool Step() ABSL_LOCKS_EXCLUDED(sweep_mutex_);

  // Blocks that an open slot has in its pool (GPU, DRAM) and on SSD.
  struct SlotBlocks {
    uint64_t pool = 0;
    uint64_t ssd = 0;
  };
  SlotBlocks slot_blocks(SlotHandle handle) const;

  struct Counts {
    uint64_t blocks = 0;  // distinct, with those of closed slots that are not yet reclaimed
    uint64_t ghosts = 0;
  };
  Counts counts() const;

 private:
  static constexpr size_t kShards = 256;

  // Fingerprints are uniform; the top byte chooses the shard, the rest is the hash.
  struct FingerprintHash {
    size_t operator()(uint64_t fingerprint) const { return fingerprint; }
  };
  template <typename V>
  using Map = absl::flat_hash_map<uint64_t, V, FingerprintHash>;

  struct Ghost {
    stemcache::v1::MissCause cause;
    uint32_t stamp;  // of its departure; an older departure of the same block is no longer this ghost
  };
  struct Departure {
    uint64_t fingerprint;
    uint32_t stamp;
  };
  struct alignas(64) Shard {
    mutable Mutex mutex;
    Map<HolderList> blocks ABSL_GUARDED_BY(mutex);
    Map<Ghost> ghosts ABSL_GUARDED_BY(mutex);
    std::deque<Departure> departures ABSL_GUARDED_BY(mutex);  // at most ghosts_per_shard_
    uint32_t stamp ABSL_GUARDED_BY(mutex) = 0;
    bool forgot ABSL_GUARDED_BY(mutex) = false;  // a ghost was dropped for space
  };
  enum class SlotState : uint32_t { kFree = 0, kOpen = 1, kLost = 2, kSuperseded = 3 };
  struct SlotCounters {
    std::atomic<uint64_t> pool{0};
    std::atomic<uint64_t> ssd{0};
  };

  Shard& ShardOf(uint64_t fingerprint) const { return shards_[fingerprint >> 56]; }
  SlotState StateOf(NodeSlot slot) const { return static_cast<SlotState>(words_[slot].load() & 3); }
  bool IsOpen(SlotHandle handle) const {
    return words_[handle.slot].load() == Word(handle.generation, SlotState::kOpen);
  }
  static uint32_t Word(uint32_t generation, SlotState state) { return generation << 2 | static_cast<uint32_t>(state); }
  void Count(Holder holder, int64_t change);
  // Drops holders in closed slots; returns why when that leaves none, else UNSPECIFIED.
  stemcache::v1::MissCause Prune(HolderList& holders);
  void Remember(Shard& shard, uint64_t fingerprint, stemcache::v1::MissCause cause)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(shard.mutex);
  void Sweep(Shard& shard);

  const uint64_t ghosts_per_shard_;
  const std::unique_ptr<Shard[]> shards_;
  std::array<std::atomic<uint32_t>, kSlotsMax> words_{};  // generation and state; written under sweep_mutex_
  const std::unique_ptr<SlotCounters[]> counters_;

  mutable Mutex sweep_mutex_;
  std::vector<NodeSlot> free_ ABSL_GUARDED_BY(sweep_mutex_);      // lent last first
  std::vector<NodeSlot> closed_ ABSL_GUARDED_BY(sweep_mutex_);    // wait for the next round
  std::vector<NodeSlot> sweeping_ ABSL_GUARDED_BY(sweep_mutex_);  // free after this round
  size_t next_shard_ ABSL_GUARDED_BY(sweep_mutex_) = 0;
};

}  // namespace stem
