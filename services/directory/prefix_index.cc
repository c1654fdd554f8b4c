#include "services/directory/prefix_index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

HolderList::iterator FindSlot(HolderList& holders, NodeSlot slot) {
  return std::find_if(holders.begin(), holders.end(), [slot](Holder each) { return each.slot == slot; });
}

}  // namespace

PrefixIndex::PrefixIndex(uint64_t ghosts_max)
    : ghosts_per_shard_(ghosts_max / kShards),
      shards_(std::make_unique<Shard[]>(kShards)),
      counters_(std::make_unique<SlotCounters[]>(kSlotsMax)) {
  MutexLock lock(sweep_mutex_);
  free_.reserve(kSlotsMax);
  for (size_t slot = kSlotsMax; slot > 0; --slot) free_.push_back(static_cast<NodeSlot>(slot - 1));
}

absl::StatusOr<SlotHandle> PrefixIndex::OpenSlot() {
  MutexLock lock(sweep_mutex_);
  if (free_.empty()) {
    return absl::ResourceExhaustedError(absl::StrCat("all ", kSlotsMax, " holder slots are in use; try again later"));
  }
  const SlotHandle handle{.slot = free_.back(), .generation = (words_[free_.back()].load() >> 2) + 1};
  free_.pop_back();
  counters_[handle.slot].pool.store(0);
  counters_[handle.slot].ssd.store(0);
  words_[handle.slot].store(Word(handle.generation, SlotState::kOpen));
  return handle;
}

void PrefixIndex::CloseSlot(SlotHandle handle, SlotEnd end) {
  MutexLock lock(sweep_mutex_);
  if (!IsOpen(handle)) return;
  words_[handle.slot].store(Word(handle.generation, end == SlotEnd::kLost ? SlotState::kLost : SlotState::kSuperseded));
  closed_.push_back(handle.slot);
}

void PrefixIndex::Count(Holder holder, int64_t change) {
  SlotCounters& counters = counters_[holder.slot];
  (holder.tier == v1::TIER_SSD ? counters.ssd : counters.pool).fetch_add(static_cast<uint64_t>(change));
}

v1::MissCause PrefixIndex::Prune(HolderList& holders) {
  bool lost = false;
  const auto gone = std::remove_if(holders.begin(), holders.end(), [&](Holder holder) {
    const SlotState state = StateOf(holder.slot);
    lost = lost || state == SlotState::kLost;
    return state != SlotState::kOpen;
  });
  holders.erase(gone, holders.end());
  if (!holders.empty()) return v1::MISS_CAUSE_UNSPECIFIED;
  return lost ? v1::MISS_CAUSE_NODE_LOST : v1::MISS_CAUSE_UNKNOWN;
}

void PrefixIndex::Remember(Shard& shard, uint64_t fingerprint, v1::MissCause cause) {
  const uint32_t stamp = ++shard.stamp;
  shard.ghosts[fingerprint] = {.cause = cause, .stamp = stamp};
  shard.departures.push_back({.fingerprint = fingerprint, .stamp = stamp});
  if (shard.departures.size() <= ghosts_per_shard_) return;
  const Departure oldest = shard.departures.front();
  shard.departures.pop_front();
  const auto ghost = shard.ghosts.find(oldest.fingerprint);
  if (ghost == shard.ghosts.end() || ghost->second.stamp != oldest.stamp) return;
  shard.ghosts.erase(ghost);
  shard.forgot = true;
}

void PrefixIndex::Add(SlotHandle handle, uint64_t fingerprint, v1::Tier tier) {
  Shard& shard = ShardOf(fingerprint);
  MutexLock lock(shard.mutex);
  // Checked under the shard's lock: if the slot closes after this, the sweep comes to this shard later still.
  if (!IsOpen(handle)) return;
  const Holder holder{.slot = handle.slot, .tier = static_cast<uint8_t>(tier)};
  HolderList& holders = shard.blocks[fingerprint];
  if (holders.empty()) shard.ghosts.erase(fingerprint);
  const auto known = FindSlot(holders, handle.slot);
  if (known != holders.end()) {
    Count(*known, -1);
    *known = holder;
  } else {
    if (holders.size() == holders.capacity()) Prune(holders);
    holders.push_back(holder);
  }
  Count(holder, 1);
}

void PrefixIndex::Remove(SlotHandle handle, uint64_t fingerprint, v1::MissCause cause) {
  Shard& shard = ShardOf(fingerprint);
  MutexLock lock(shard.mutex);
  const auto block = shard.blocks.find(fingerprint);
  if (block == shard.blocks.end() || !IsOpen(handle)) return;
  HolderList& holders = block->second;
  const auto known = FindSlot(holders, handle.slot);
  if (known == holders.end()) return;
  Count(*known, -1);
  holders.erase(known);
  if (!holders.empty() && Prune(holders) == v1::MISS_CAUSE_UNSPECIFIED) return;
  shard.blocks.erase(block);
  Remember(shard, fingerprint, cause);
}

void PrefixIndex::Find(uint64_t fingerprint, Found& found) const {
  found.holders.clear();
  const Shard& shard = ShardOf(fingerprint);
  MutexLock lock(shard.mutex);
  const auto block = shard.blocks.find(fingerprint);
  if (block != shard.blocks.end()) {
    found.cause = v1::MISS_CAUSE_UNKNOWN;
    for (const Holder holder : block->second) {
      const SlotState state = StateOf(holder.slot);
      if (state == SlotState::kOpen) found.holders.push_back(holder);
      if (state == SlotState::kLost) found.cause = v1::MISS_CAUSE_NODE_LOST;
    }
    return;
  }
  const auto ghost = shard.ghosts.find(fingerprint);
  found.cause = ghost != shard.ghosts.end() ? ghost->second.cause
                : shard.forgot              ? v1::MISS_CAUSE_UNKNOWN
                                            : v1::MISS_CAUSE_COLD;
}

void PrefixIndex::Sweep(Shard& shard) {
  MutexLock lock(shard.mutex);
  for (auto block = shard.blocks.begin(); block != shard.blocks.end();) {
    const v1::MissCause cause = Prune(block->second);
    if (cause == v1::MISS_CAUSE_UNSPECIFIED) {
      ++block;
      continue;
    }
    Remember(shard, block->first, cause);
    shard.blocks.erase(block++);
  }
}

bool PrefixIndex::Step() {
  MutexLock lock(sweep_mutex_);
  if (sweeping_.empty()) {
    if (closed_.empty()) return false;
    sweeping_.swap(closed_);
    next_shard_ = 0;
  }
  Sweep(shards_[next_shard_]);
  if (++next_shard_ < kShards) return true;
  for (const NodeSlot slot : sweeping_) {
    words_[slot].store(Word(words_[slot].load() >> 2, SlotState::kFree));
    free_.push_back(slot);
  }
  sweeping_.clear();
  return !closed_.empty();
}

PrefixIndex::SlotBlocks PrefixIndex::slot_blocks(SlotHandle handle) const {
  if (!IsOpen(handle)) return {};
  return {.pool = counters_[handle.slot].pool.load(), .ssd = counters_[handle.slot].ssd.load()};
}

PrefixIndex::Counts PrefixIndex::counts() const {
  Counts counts;
  for (size_t i = 0; i < kShards; ++i) {
    MutexLock lock(shards_[i].mutex);
    counts.blocks += shards_[i].blocks.size();
    counts.ghosts += shards_[i].ghosts.size();
  }
  return counts;
}

}  // namespace stem
