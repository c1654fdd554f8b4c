// The pool's side of operators' levers: what is evicted by name, kept from eviction, and limited.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/pool/block_pool.h"

namespace stem {
namespace {
constexpr size_t kBlocksPerLock = 4096;
}  // namespace

// ---- Evicting by name ----------------------------------------------------------------------------------------------------

bool BlockPool::EvictSubtree(BlockId root, Withdrawn* evicted) {
  for (BlockId id = root; evicted->gone.size() < kBlocksPerLock;) {
    while (blocks_[id].first_child != kNoBlock) id = blocks_[id].first_child;
    const BlockId parent = blocks_[id].parent;
    WithdrawNamed(id, GoneReason::kWithdrawn, evicted);
    if (id == root) return true;
    id = parent;
  }
  return false;
}

BlockPool::Withdrawn BlockPool::Evict(const BlockName& name) {
  Withdrawn evicted;
  MutexLock lock(mutex_);
  const auto it = table_.find(name);
  if (it != table_.end()) evicted.more = !EvictSubtree(it->second, &evicted);
  return evicted;
}

BlockPool::Withdrawn BlockPool::EvictSpace(const NamespaceFingerprint& space, BlockId* next) {
  Withdrawn evicted;
  MutexLock lock(mutex_);
  const size_t end = std::min<size_t>(*next + kBlocksPerLock, blocks_.size());
  for (; *next < end; ++*next) {
    const Block& block = blocks_[*next];
    if (!block.used || block.withdrawn || block.meta.name.space != space) continue;
    if (!EvictSubtree(*next, &evicted)) break;
  }
  evicted.more = *next < blocks_.size();
  return evicted;
}

// ---- Keeping -------------------------------------------------------------------------------------------------------------

absl::StatusOr<std::vector<BlockPin>> BlockPool::Keep(std::span<const BlockName> names) {
  MutexLock lock(mutex_);
  std::vector<BlockId> ids;
  uint64_t more = 0;
  for (const BlockName& name : names) {
    const auto it = table_.find(name);
    if (it == table_.end()) break;
    const Block& block = blocks_[it->second];
    if (!block.in_slot || block.filling) break;
    if (block.kept == 0) ++more;
    ids.push_back(it->second);
  }
  STEM_TRY(CheckKept(more));
  std::vector<BlockPin> kept;
  kept.reserve(ids.size());
  for (const BlockId id : ids) {
    Block& block = blocks_[id];
    if (block.kept++ == 0) ++slots_kept_;
    if (std::exchange(block.ranked, false)) dram_policy_->Remove(id);
    kept.push_back(PinLocked(id));
  }
  return kept;
}

absl::Status BlockPool::CheckKept(uint64_t more) const {
  if (slots_kept_ + more <= slots_max_ / 2) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("keeping ", more, " more blocks beside the ", slots_kept_, " that are kept would take more than ",
                                                   slots_max_ / 2, " slots, half of the pool"));
}

absl::Status BlockPool::MayKeep(std::span<const BlockName> names) const {
  MutexLock lock(mutex_);
  uint64_t more = 0;
  for (const BlockName& name : names) {
    const auto it = table_.find(name);
    if (it == table_.end() || blocks_[it->second].kept == 0) ++more;
  }
  return CheckKept(more);
}

void BlockPool::LetGo(std::vector<BlockPin> kept) {
  MutexLock lock(mutex_);
  for (BlockPin& pin : kept) {
    const BlockId id = std::exchange(pin.id_, kNoBlock);
    pin.pool_ = nullptr;  // unpinned here, under the lock that is held
    if (--blocks_[id].kept == 0) --slots_kept_;
    UnpinLocked(id);
  }
}

std::vector<BlockName> BlockPool::ChainTo(const BlockName& name) const {
  MutexLock lock(mutex_);
  std::vector<BlockName> chain;
  const auto it = table_.find(name);
  if (it == table_.end()) return chain;
  for (BlockId id = it->second; id != kNoBlock; id = blocks_[id].parent) chain.push_back(blocks_[id].meta.name);
  std::reverse(chain.begin(), chain.end());
  return chain;
}

// ---- Quotas --------------------------------------------------------------------------------------------------------------

absl::Status BlockPool::SetQuota(uint64_t dram_bytes, uint64_t ssd_bytes) {
  const uint64_t slots = dram_bytes / geometry_.slot_bytes;
  if (dram_bytes > 0 && (slots == 0 || slots > slots_)) {
    return absl::InvalidArgumentError(absl::StrCat("a quota of ", dram_bytes, " bytes; it must hold 1 to ", slots_, " slots of ",
                                                   geometry_.slot_bytes, " bytes"));
  }
  if (ssd_bytes > 0 && options_.ssd_bytes_max == 0) return absl::InvalidArgumentError("an SSD quota, and there is no SSD tier here");
  MutexLock lock(mutex_);
  if (dram_bytes > 0 && slots / 2 < slots_kept_) {  // the rest could not be published into
    return absl::FailedPreconditionError(absl::StrCat("a quota of ", dram_bytes, " bytes, and ", slots_kept_ * geometry_.slot_bytes,
                                                      " are kept from eviction, which may be half of it: unpin stems, or at least ",
                                                      2 * slots_kept_ * geometry_.slot_bytes));
  }
  if (dram_bytes > 0) slots_max_ = static_cast<uint32_t>(slots);
  if (ssd_bytes > 0) ssd_bytes_max_ = ssd_bytes;
  spill_demand_.NotifyOne();
  slot_freed_.NotifyAll();
  return absl::OkStatus();
}

bool BlockPool::EvictOverQuota() {
  MutexLock lock(mutex_);
  for (size_t i = 0; i < kBlocksPerLock; ++i) {
    if (slots_ - free_slots_.size() <= slots_max_ || !EvictOne()) return false;
  }
  return true;
}

}  // namespace stem
