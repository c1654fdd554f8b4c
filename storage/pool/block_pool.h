// What one trust group's memory on this node holds: the slots of its arena, the table of blocks in every tier of the node,
// and how chains hang together. Keeps law 6 (a slot is reused only when nobody can read or write it) and law 7 (chains are
// closed: a block comes only onto a held parent, and leaves its last tier only without held children).
//
// Life of a block: BeginFill -> Filling ticket -> Commit -> Ready in DRAM -> [TakeSpillBatch -> FinishSpill -> on SSD]
// -> [BeginFill again -> promoted] -> evicted. Policies rank; this class does. All methods: any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "storage/block_meta.h"
#include "storage/policy/admission.h"
#include "storage/policy/eviction.h"
#include "storage/policy/policies.h"
#include "storage/pool/slot.h"
#include "storage/pool/slot_map.h"

namespace stem {

class BlockPool;

enum class Residence : uint8_t { kGone, kSsd, kDram };
enum class GoneReason : uint8_t { kNone, kEvicted, kSpillRejected, kIntegrity, kWithdrawn };

// A block's best place changed. Bytes came before its name, and its name goes before its bytes (law 6).
struct BlockChange {
  BlockName name;
  std::optional<BlockKey> parent;
  Residence residence = Residence::kGone;
  GoneReason reason = GoneReason::kNone;
};

// A block left a tier: for what operators ask. `by` lives for ever.
struct BlockLeft {
  BlockName name;
  Residence from = Residence::kDram;
  GoneReason reason = GoneReason::kNone;  // kNone: it went on to the SSD
  absl::string_view by;                   // the policy that chose it; of kSpillRejected the admission, or "failed write"
  absl::Duration age;                     // in that tier, since it came or since the node began
};

// The permission to read a slot: it is not reused while a pin of it lives. Move-only; outlives no pool.
class BlockPin {
 public:
  BlockPin() = default;
  BlockPin(BlockPin&& other) noexcept;
  BlockPin& operator=(BlockPin&& other) noexcept;
  ~BlockPin();

  bool valid() const { return pool_ != nullptr; }
  const BlockMeta& meta() const { return meta_; }
  uint32_t slot() const { return slot_; }
  SlotView<const std::byte> view() const;

 private:
  friend class BlockPool;
  BlockPin(BlockPool* pool, BlockId id, uint32_t slot, const BlockMeta& meta)
      : pool_(pool), id_(id), slot_(slot), meta_(meta) {}

  BlockPool* pool_ = nullptr;
  BlockId id_ = kNoBlock;
  uint32_t slot_ = 0;
  BlockMeta meta_;
};

// A block that someone else is bringing, counted on: who brings it goes on with it (Filling::GiveUp), and once it is Ready it stays. Move-only;
// outlives no pool.
class BlockAwait {
 public:
  BlockAwait() = default;
  BlockAwait(BlockAwait&& other) noexcept;
  BlockAwait& operator=(BlockAwait&& other) noexcept;
  ~BlockAwait();

  bool valid() const { return pool_ != nullptr; }

 private:
  friend class BlockPool;
  BlockAwait(BlockPool* pool, BlockId id) : pool_(pool), id_(id) {}

  BlockPool* pool_ = nullptr;
  BlockId id_ = kNoBlock;
};

// The permission to write a slot that no reader can see yet. Destroying it uncommitted frees the slot and the name.
class Filling {
 public:
  Filling() = default;
  Filling(Filling&& other) noexcept;
  Filling& operator=(Filling&& other) noexcept;
  ~Filling();

  bool valid() const { return pool_ != nullptr; }
  uint32_t slot() const { return slot_; }
  SlotView<std::byte> view() const;
  // Set when the block is on this node's SSD: what the record read from there must be, its generation and its encoding included.
  const std::optional<BlockMeta>& promoted() const { return promoted_; }

  // Makes the block Ready: writes the slot's header, then names it. The payload and its chunk hashes are in the slot.
  // Consumes the ticket. Errors: FailedPrecondition when the parent is not held: gone meanwhile, or itself still being filled (who does not
  // bring both waits for it first: PinWhenFilled).
  absl::StatusOr<BlockPin> Commit(uint64_t length, uint64_t digest, uint64_t publisher) &&;

  // Gives the block up, unless somebody awaits it: then false, and it is to be brought. Its name goes now, its slot with the ticket, as bytes
  // may still be on their way into it (law 6). A block of the SSD is back there when the ticket ends.
  bool GiveUp();

 private:
  friend class BlockPool;
  Filling(BlockPool* pool, BlockId id, uint32_t slot, std::optional<BlockMeta> promoted)
      : pool_(pool), id_(id), slot_(slot), promoted_(std::move(promoted)) {}

  BlockPool* pool_ = nullptr;
  BlockId id_ = kNoBlock;
  uint32_t slot_ = 0;
  std::optional<BlockMeta> promoted_;
};

// By whom blocks are used.
struct BlockUse {
  Conversation conversation;
  bool copied = false;  // for another node, which holds them from now on
};

class BlockPool {
 public:
  struct Options {
    uint64_t ssd_bytes_max = 0;  // quota of this pool on the SSD tier, to begin with; 0 = none: evicted blocks are gone
    // The spiller keeps this many slots free ahead of demand.
    uint32_t spill_ahead_slots = 0;
    PolicyKind policy = PolicyKind::kStem;  // who leaves DRAM first, within law 7; the SSD is LRU
    AdmissionKind admission = AdmissionKind::kAlways;  // who is worth a write to SSD
    // Told of every change in order, under the pool's lock: must be short and call nothing of the pool. May be empty.
    std::function<void(const BlockChange&)> on_change;
    // Told of every block that leaves a tier, as on_change. May be empty.
    std::function<void(const BlockLeft&)> on_leave;
    // Shows clients what is Ready; as SlotMapWriter wants it, for slots(). Borrowed, outlives the pool; may be empty.
    std::span<std::byte> slot_map = {};
  };

  // `arena` (borrowed, outlives the pool) is cut into slots of `geometry`.
  BlockPool(std::span<std::byte> arena, SlotGeometry geometry, Options options);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // How many slots fit so many bytes.
  static uint32_t SlotsIn(uint64_t arena_bytes, const SlotGeometry& geometry) { return static_cast<uint32_t>(arena_bytes / geometry.slot_bytes); }

  const SlotGeometry& geometry() const { return geometry_; }
  uint32_t slots() const { return slots_; }

  // Where a block is now. kFilling: someone is bringing it.
  enum class Presence : uint8_t { kAbsent, kFilling, kSsd, kDram };
  Presence Find(const BlockName& name) const;
  // The same of many, under one lock for each 256; appends to `found`, in order.
  void FindAll(std::span<const BlockName> names, std::vector<Presence>& found) const;

  // Pins a block that is Ready in DRAM; an invalid pin otherwise. Does not touch: see Touch.
  BlockPin Pin(const BlockName& name);
  // Pins the leading run of `names` that is Ready in DRAM, many under one lock; appends to `pins`.
  void PinRun(std::span<const BlockName> names, std::vector<BlockPin>& pins);
  // Pins the first block from entry `*next` on that is Ready in DRAM, and sets `*next` behind it. Invalid when a few thousand entries held
  // none, and with `*next` 0 after the last of all. Blocks come in no order; some that change meanwhile are passed over.
  BlockPin PinNext(BlockId* next);
  // Counts on a block: pins it (`*pin`) when it is Ready, awaits it (`*awaited`) when someone is filling it. Both are invalid before.
  Presence PinOrAwait(const BlockName& name, BlockPin* pin, BlockAwait* awaited);
  // Waits for a block that someone else is filling, and counts on it meanwhile. Invalid when it did not come or `deadline` passed.
  BlockPin PinWhenFilled(const BlockName& name, absl::Time deadline);
  // Tells the policies that a request used these blocks, in chain order: those that it brought enter them now. A run that does
  // not start its chain goes on with the request that used its parent.
  void Touch(std::span<const BlockName> names, const BlockUse& use = {});
  // The engine will not go on with a conversation: what only that used may go first.
  void EndConversation(uint64_t conversation);

  // A slot for a block that is to come from a client, a peer or the SSD. Evicts as needed; with an SSD tier, waits for
  // the spiller until `deadline`.
  // Errors: AlreadyExists (Ready, or being filled), FailedPrecondition (parent not held: law 7), ResourceExhausted.
  absl::StatusOr<Filling> BeginFill(const BlockName& name, const std::optional<BlockKey>& parent, absl::Time deadline);

  struct Withdrawn {
    std::vector<BlockName> gone;
    std::vector<SpillRecordId> records;  // of those, on SSD: for the spill store to remove
    uint64_t in_use = 0;                 // of those: pinned, so that their slots are freed later
    bool more = false;                   // ask again
  };
  // Withdraws a block, of which the copy of `generation` (of its slot or its record) failed its proof, with everything that hangs on it. Slots
  // are freed with their last pin. Nothing is gone when that copy has left meanwhile: another of the name is another's word.
  Withdrawn Quarantine(const BlockName& name, uint64_t generation);

  // ---- For operators ----
  // Withdraws a block and everything that hangs on it, leaves first, some thousands a call.
  Withdrawn Evict(const BlockName& name);
  // The same with the blocks of a namespace from entry `*next` on, which is set to where to go on.
  Withdrawn EvictSpace(const NamespaceFingerprint& space, BlockId* next);

  // Pins the leading run of `names` that is Ready in DRAM and takes it out of the eviction policy's sight until LetGo.
  // Errors: ResourceExhausted when more than half of the slots would be kept; nothing is then.
  absl::StatusOr<std::vector<BlockPin>> Keep(std::span<const BlockName> names);
  // Whether Keep would take so many now, wherever they are. Errors: ResourceExhausted.
  absl::Status MayKeep(std::span<const BlockName> names) const;
  void LetGo(std::vector<BlockPin> kept);
  // The names of the chain that ends with `name`, from its beginning; empty when it is not held.
  std::vector<BlockName> ChainTo(const BlockName& name) const;

  // At most so many bytes of slots are used, and of the SSD tier, from now on; 0 = leave as it is. Nothing leaves here: EvictOverQuota does that
  // for DRAM, the spiller for the SSD and for what must be written there first. Errors: InvalidArgument (no slot, more than there are, an SSD
  // quota without an SSD tier), FailedPrecondition (less than twice what is kept).
  absl::Status SetQuota(uint64_t dram_bytes, uint64_t ssd_bytes);
  // Evicts what is beyond the DRAM quota, as for want of space, some thousands a call; true: ask again.
  bool EvictOverQuota();

  // ---- For the spiller (one thread) ----
  // Up to `bytes_max` of least valuable blocks that are not on SSD, pinned. Empty when enough slots are free.
  std::vector<BlockPin> TakeSpillBatch(uint64_t bytes_max);
  // The batch is safely on SSD (or, when not `stored`, is not): its slots are freed unless in use. `records`: what was written for each, where
  // that was not the block as it is. Returns what was withdrawn meanwhile, for the store to remove again.
  [[nodiscard]] std::vector<SpillRecordId> FinishSpill(std::vector<BlockPin> batch, bool stored, std::span<const BlockMeta> records = {});
  // Makes room for `bytes` under the SSD quota, some ten thousand blocks a call; returns the records that are gone, for the store to remove
  // before it is given another batch: what is in DRAM still may be in that, under the same generation.
  std::vector<SpillRecordId> MakeSsdRoom(uint64_t bytes);
  // Blocks until slots run low, or run lower where the last batch found nothing that may leave, or `timeout` passes.
  void WaitForSpillDemand(absl::Duration timeout);

  // ---- Warm restart: before the first request ----
  // Enters a block found on SSD, in any order; FinishRestore links the chains and returns blocks without a parent, which
  // are dropped again.
  void Restore(const BlockMeta& meta);
  std::vector<SpillRecordId> FinishRestore();

  // Calls `visit` for every held block, a few thousand at a time under the lock, in no order. Blocks that change meanwhile
  // may be missed or seen late: on_change tells of them anyway.
  void Snapshot(const std::function<void(const BlockChange&)>& visit) const;

  struct Stats {
    uint64_t slots_free = 0;
    uint64_t slots_used = 0;   // with a block, or being filled; with slots_free all that there are
    uint64_t slots_pinned = 0;
    uint64_t slots_kept = 0;   // of those, by operators
    uint64_t slots_max = 0;    // that may be used
    uint64_t ssd_bytes_max = 0;
    uint64_t pins = 0;
    uint64_t filling = 0;
    uint64_t blocks_dram = 0;  // Ready in DRAM
    uint64_t blocks_ssd = 0;   // on SSD, in DRAM too or not
    uint64_t ssd_bytes = 0;
    uint64_t evicted = 0;      // left their last tier for space
    uint64_t spill_rejected = 0;  // of those, not worth a write to SSD, or one that failed
    uint64_t orphans = 0;      // blocks whose parent is not held: 0 (law 7)
    uint64_t quarantined = 0;  // blocks that failed their proof, and
    uint64_t quarantined_below = 0;  // what hung on them and left with them
  };
  Stats stats() const;

 private:
  friend class BlockAwait;
  friend class BlockPin;
  friend class Filling;

  struct Block {
    BlockMeta meta;
    BlockId parent = kNoBlock;
    BlockId first_child = kNoBlock;
    BlockId next_sibling = kNoBlock;
    BlockId previous_sibling = kNoBlock;
    uint64_t fill_generation = 0;   // of the slot, once it is Ready
    uint64_t spill_generation = 0;  // in the record on SSD, as are
    uint64_t spill_digest = 0;
    uint32_t spill_length = 0;
    uint16_t spill_encoding = 0;
    uint64_t request = 0;           // that used it last
    uint32_t dram_since = 0;        // Hundredths()
    uint32_t ssd_since = 0;
    uint32_t depth = 0;             // blocks before it in its chain
    uint32_t slot = 0;
    uint32_t pins = 0;
    uint32_t awaited = 0;    // by so many, since it was being filled
    uint32_t kept = 0;       // pins of Keep; above 0 it is not ranked
    bool ranked = false;     // the DRAM policy has it; not before the request that brought it ended or let go of it
    bool used = false;       // this entry is a block
    bool in_slot = false;    // has a slot: filling or Ready
    bool filling = false;
    bool on_ssd = false;
    bool spilling = false;   // in a batch of the spiller
    bool withdrawn = false;  // out of the table; lives on for its last pin
  };

  void Unpin(BlockId id);
  absl::StatusOr<BlockPin> CommitFill(BlockId id, uint64_t length, uint64_t digest, uint64_t publisher);
  void AbandonFill(BlockId id);
  bool GiveUpFill(BlockId id);
  void EndAwait(BlockId id);
  std::span<std::byte> slot_bytes(uint32_t slot) const;

  BlockId NewBlock(const BlockName& name, const std::optional<BlockKey>& parent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Link(BlockId id, BlockId parent) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes the entry out of table, chain and tiers; frees it unless pinned or filling.
  void Withdraw(BlockId id, GoneReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The block and what hangs on it, parents first.
  std::vector<BlockId> Subtree(BlockId id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Withdraw, noted down when it was anywhere.
  void WithdrawNamed(BlockId id, GoneReason reason, Withdrawn* withdrawn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds to `evicted` until it has some thousands; true when all of the subtree is gone.
  bool EvictSubtree(BlockId root, Withdrawn* evicted) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeSlot(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeEntryIfUnused(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives up one DRAM copy that may go; false when none may.
  bool EvictOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveDram(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveSsd(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Presence FindLocked(const BlockName& name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BlockPin PinNamed(const BlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The number of the request that brings a block: that which used its parent, or a new one where a chain starts.
  uint64_t RequestOf(const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells the policies of a use.
  void UseLocked(BlockId id, uint64_t request, const BlockUse& use) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void UnpinLocked(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BlockInfo InfoOf(const Block& block, const BlockUse& use) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BlockPin PinLocked(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BlockAwait AwaitLocked(BlockId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // OK when `name` may be filled now: absent or only on SSD, its parent held or being filled.
  absl::Status MayFill(const BlockName& name, const std::optional<BlockKey>& parent) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What policies know a block by.
  static uint64_t PolicyKey(const BlockName& name) { return name.key.low ^ name.space.low; }
  // Whether a block that leaves DRAM is to be written to SSD.
  bool WorthSpilling(const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayLeaveDram(const Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckKept(uint64_t more) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<uint32_t> TakeSlot(absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool SpillWanted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Free slots that the quota lets be used.
  size_t slots_left() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t spill_ahead() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Enters what was found on SSD into its policy, parents first.
  void RankRestored() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Enters `record` (of the block's name) as its copy on SSD, or strikes it.
  void EnterSsd(Block& block, const BlockMeta& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StrikeSsd(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Announce(const Block& block, Residence residence, GoneReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TellLeft(const Block& block, Residence from, GoneReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of a second, since the pool began: 4 bytes last for 497 days.
  uint32_t Hundredths() const;

  const std::span<std::byte> arena_;
  const SlotGeometry geometry_;
  const Options options_;
  const uint32_t slots_;
  const absl::Time began_;

  mutable Mutex mutex_;
  CondVar slot_freed_;
  CondVar filled_;
  CondVar spill_demand_;
  std::deque<Block> blocks_ ABSL_GUARDED_BY(mutex_);  // by BlockId; a deque so that entries stay put
  std::vector<BlockId> free_ids_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> free_slots_ ABSL_GUARDED_BY(mutex_);
  SlotMapWriter slot_map_ ABSL_GUARDED_BY(mutex_);
  uint32_t slots_max_ ABSL_GUARDED_BY(mutex_);  // that may be used
  uint64_t ssd_bytes_max_ ABSL_GUARDED_BY(mutex_);
  uint64_t slots_kept_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t slots_used_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<BlockName, BlockId> table_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<EvictionPolicy> dram_policy_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<EvictionPolicy> ssd_policy_ ABSL_GUARDED_BY(mutex_);
  Admission admission_ ABSL_GUARDED_BY(mutex_);
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t ssd_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t blocks_dram_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t blocks_ssd_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t pins_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t slots_pinned_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t filling_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t evicted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t orphans_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t spill_rejected_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t quarantined_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t quarantined_below_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t slot_waiters_ ABSL_GUARDED_BY(mutex_) = 0;
  bool spill_failing_ ABSL_GUARDED_BY(mutex_) = false;  // the last batch could not be stored
  bool spill_in_vain_ ABSL_GUARDED_BY(mutex_) = false;  // the last batch was wanted, and nothing might leave
};

}  // namespace stem
