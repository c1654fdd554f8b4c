// Which holders have which blocks. Keyed by 64-bit index fingerprints, so an answer is a hint and never a proof.
// A holder is a slot: a number lent to one state of one node. What a slot says is never edited as a whole: a node
// that restarts or resyncs fills a new slot, and the old one is closed, which takes all it said out of sight at once;
// Step() then reclaims it in the background. What left its last slot becomes a ghost that remembers why.
//   Chains are stored once, in stretches (stretch.h); holders are spans of a stretch; one table finds any key.
//   Writers take turns, a few hundred microseconds at most; readers take no lock and wait for no one.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "services/directory/ghosts.h"
#include "services/directory/stretch_store.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

// What the index knows a block by; never 0.
inline uint64_t IndexedAs(const BlockName& name) { return IndexFingerprint(name) | 1; }

// One tenancy of a slot: outlived handles change nothing.
struct SlotHandle {
  NodeSlot slot = 0;
  uint32_t generation = 0;

  friend bool operator==(const SlotHandle&, const SlotHandle&) = default;
};

// Why a slot was closed, and so why what only it held is gone.
enum class SlotEnd : uint8_t {
  kLost,        // the node died or fell silent: node_lost
  kSuperseded,  // a newer snapshot lacks it, and no one heard why: unknown
};

struct PrefixIndexOptions {
  uint64_t bytes_max = 16ULL << 30;  // of the whole index, ghosts included; what does not fit is forgotten
  uint64_t ghosts_max = 1 << 20;     // departures that are remembered, 8 bytes each; the oldest are forgotten first
};

class PrefixIndex {
 public:
  static constexpr size_t kSlotsMax = 32768;

  explicit PrefixIndex(const PrefixIndexOptions& options);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  // Threads: all methods, any.

  // Errors: ResourceExhausted when all slots are lent or not yet reclaimed.
  absl::StatusOr<SlotHandle> OpenSlot();
  // What the slot said is out of sight when this returns. Closing twice changes nothing.
  void CloseSlot(SlotHandle handle, SlotEnd end);

  // Of a space's blocks: whether they count as held. Those in engines' own caches do not, and leave no ghosts: they are none of a node's.
  enum class Counted : uint8_t { kNo, kYes };

  // The slot now has these blocks in `tier` and nowhere else. Chain order makes them cheap, any order is right; `parent` is
  // the block before the first. Nothing happens when the slot is closed.
  void AddRun(SlotHandle handle, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent,
              stemcache::v1::Tier tier, Counted counted = Counted::kYes);
  // Forgets them; `cause` is remembered where no other slot has the block. Absent blocks and closed slots change nothing.
  void RemoveRun(SlotHandle handle, std::span<const uint64_t> fingerprints, stemcache::v1::MissCause cause);

  enum class SlotState : uint8_t { kFree = 0, kOpen = 1, kLost = 2, kSuperseded = 3 };

  // Blocks that lie side by side in one stretch.
  struct Piece {
    uint32_t count = 0;    // of the fingerprints asked for, from the first on; 0 = the first is nowhere
    uint32_t block = 0;    // of the first, in its stretch
    uint64_t holders = 0;  // see Stretch::holders
  };
  // One consistent enough look: what it found stays readable for its life. Short: it holds memory back.
  class Reader {
   public:
    explicit Reader(const PrefixIndex& index) : index_(index), guard_(index.store_.epochs()) {}

    // `fingerprints` is not empty.
    Piece Find(std::span<const uint64_t> fingerprints) const;
    // Calls visit(NodeSlot, Tier, SlotState, first, last) for who has blocks first..last of the piece, 0 being its first
    // block. A slot may come more than once, and be closed.
    template <typename Visit>
    void ForEachHolder(const Piece& piece, Visit visit) const {
      const uint32_t end = piece.block + piece.count - 1;
      ForEachSpan(piece.holders, index_.store_.memory(), [&](HolderSpan span) {
        if (span.first > end || span.last < piece.block) return;
        const uint32_t first = span.first > piece.block ? span.first - piece.block : 0;
        const uint32_t last = (span.last < end ? span.last : end) - piece.block;
        visit(span.slot, static_cast<stemcache::v1::Tier>(span.tier), index_.StateOf(span.slot), first, last);
      });
    }
    // Why a block that is nowhere is not: a ghost's cause; UNKNOWN when ghosts were forgotten; else COLD.
    stemcache::v1::MissCause CauseOf(uint64_t fingerprint) const { return index_.ghosts_.Find(fingerprint); }
    // A lookup of `fingerprint` is near.
    void Prefetch(uint64_t fingerprint) const { index_.store_.Prefetch(fingerprint); }

   private:
    const PrefixIndex& index_;
    const ReaderEpochs::Guard guard_;
  };

  // Reclaims closed slots in a share of the index, for 100 us or so. Returns false when nothing is left to do. A slot is
  // lent again only after a whole round.
  bool Step();

  // Blocks that an open slot has in its pool (GPU, DRAM) and on SSD.
  struct SlotBlocks {
    uint64_t pool = 0;
    uint64_t ssd = 0;
  };
  SlotBlocks slot_blocks(SlotHandle handle) const;

  struct Counts {
    uint64_t blocks = 0;  // distinct, of nodes, with those of closed slots that are not yet reclaimed
    uint64_t ghosts = 0;
    uint64_t bytes = 0;   // of all of it
    uint64_t shed = 0;    // block announcements forgotten for want of room
  };
  Counts counts() const;
  uint64_t bytes_max() const { return options_.bytes_max; }

 private:
  struct SlotCounters {
    std::atomic<uint64_t> pool{0};
    std::atomic<uint64_t> ssd{0};
  };

  SlotState StateOf(NodeSlot slot) const {
    return static_cast<SlotState>(words_[slot].load(std::memory_order_acquire) & 3);
  }
  bool IsOpen(SlotHandle handle) const {
    return words_[handle.slot].load(std::memory_order_acquire) == Word(handle.generation, SlotState::kOpen);
  }
  static uint32_t Word(uint32_t generation, SlotState state) { return generation << 2 | static_cast<uint32_t>(state); }

  // The rest is the writer's.

  void AddSome(NodeSlot slot, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent, uint8_t tier, Counted counted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Stores leading fingerprints, all of them new, behind `place` or in a stretch of their own; `place` is then the last
  // one's. Returns how many: 0 when there is no room.
  uint32_t AddNew(std::span<const uint64_t> fingerprints, std::optional<Place>& place, Counted counted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False when there is no room.
  bool AddHolder(Place first, uint32_t count, NodeSlot slot, uint8_t tier) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveSome(NodeSlot slot, std::span<const uint64_t> fingerprints, stemcache::v1::MissCause cause)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The slot, whose blocks were `before`, has `blocks` no more; those that nobody has now are dropped.
  void Withdraw(IndexRef ref, NodeSlot slot, const TierMasks& before, BlockMask blocks, stemcache::v1::MissCause cause)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Blocks that an open slot has.
  BlockMask Held(const Stretch& stretch) const;
  // Nobody has `blocks` any more; of them, `lost` went with a node. The stretch may be gone or elsewhere afterwards.
  void Drop(IndexRef ref, BlockMask blocks, stemcache::v1::MissCause cause, BlockMask lost = 0)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops spans of closed slots, and what only they held. True when something was dropped.
  bool Clean(IndexRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets what no match has asked for since it was last here, in one slab.
  void MakeRoom() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Shed(std::span<const uint64_t> fingerprints, Counted counted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const Stretch& stretch, NodeSlot slot, const TierMasks& masks, int64_t sign);
  void Forget(IndexRef ref) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PrefixIndexOptions options_;
  Ghosts ghosts_;       // written under mutex_
  StretchStore store_;  // written under mutex_
  const LazyArray<std::atomic<uint32_t>> words_;  // by slot: generation and state
  const LazyArray<SlotCounters> counters_;        // by slot
  std::atomic<uint64_t> blocks_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> shed_{0};
  std::atomic<int32_t> closed_{0};  // slots that wait for their round

  Mutex mutex_;
  size_t slots_used_ ABSL_GUARDED_BY(mutex_) = 0;           // those from here on were never lent
  std::vector<NodeSlot> free_ ABSL_GUARDED_BY(mutex_);      // came back; lent last first
  std::vector<NodeSlot> sweeping_ ABSL_GUARDED_BY(mutex_);  // free after this round
  size_t sweep_slab_ ABSL_GUARDED_BY(mutex_) = 0;           // next of this round
  size_t room_slab_ ABSL_GUARDED_BY(mutex_) = 0;            // where MakeRoom() goes on
};

}  // namespace stem
