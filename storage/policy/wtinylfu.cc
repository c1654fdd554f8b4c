#include "storage/policy/wtinylfu.h"

#include <algorithm>
#include <bit>

#include "proto/mixed.h"

namespace stem {

FrequencySketch::FrequencySketch(size_t capacity_blocks)
    : mask_(std::bit_ceil(std::max<size_t>(capacity_blocks, 16) * 4) - 1),
      adds_max_(10 * std::max<size_t>(capacity_blocks, 16)),
      counts_(kRows * (mask_ + 1)) {}

size_t FrequencySketch::Place(uint64_t key, int row) const {
  const uint64_t hash = Mixed(key + static_cast<uint64_t>(row) * 0x9E3779B97F4A7C15ULL);
  return static_cast<size_t>(row) * (mask_ + 1) + (hash & mask_);
}

void FrequencySketch::Add(uint64_t key) {
  for (int row = 0; row < kRows; ++row) {
    uint8_t& count = counts_[Place(key, row)];
    if (count < 15) ++count;
  }
  if (++adds_ < adds_max_) return;
  adds_ /= 2;
  for (uint8_t& count : counts_) count /= 2;
}

uint32_t FrequencySketch::Count(uint64_t key) const {
  uint32_t least = 15;
  for (int row = 0; row < kRows; ++row) least = std::min<uint32_t>(least, counts_[Place(key, row)]);
  return least;
}

WTinyLfuPolicy::WTinyLfuPolicy(size_t capacity_blocks)
    : window_max_(std::max<size_t>(capacity_blocks / 100, 1)),
      main_max_(capacity_blocks - std::min(capacity_blocks, window_max_)),
      protected_max_(main_max_ * 4 / 5),
      sketch_(capacity_blocks) {}

void WTinyLfuPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= keys_.size()) keys_.resize(id + size_t{1});
  keys_[id] = info.key;
  sketch_.Add(info.key);
  lists_.PushBack(kWindow, id);
  if (lists_.size(kWindow) > window_max_ && main_size() < main_max_) lists_.MoveToBack(kProbation, lists_.Front(kWindow));
}

void WTinyLfuPolicy::Touch(BlockId id, const BlockInfo& /*info*/) {
  if (!lists_.Contains(id)) return;
  sketch_.Add(keys_[id]);
  if (lists_.ListOf(id) == kWindow) {
    lists_.MoveToBack(kWindow, id);
  } else {
    Protect(id);
  }
}

void WTinyLfuPolicy::Protect(BlockId id) {
  lists_.MoveToBack(kProtected, id);
  if (lists_.size(kProtected) > protected_max_) lists_.MoveToBack(kProbation, lists_.Front(kProtected));
}

void WTinyLfuPolicy::Remove(BlockId id) {
  if (lists_.Contains(id)) lists_.Unlink(id);
}

std::optional<BlockId> WTinyLfuPolicy::Victim() {
  while (lists_.size(kWindow) > window_max_ && main_size() < main_max_) lists_.MoveToBack(kProbation, lists_.Front(kWindow));
  const uint32_t main = lists_.empty(kProbation) ? kProtected : kProbation;
  if (lists_.empty(main)) {
    if (lists_.empty(kWindow)) return std::nullopt;
    return lists_.Front(kWindow);
  }
  if (lists_.size(kWindow) <= window_max_) return lists_.Front(main);
  const BlockId candidate = lists_.Front(kWindow);
  const BlockId incumbent = lists_.Front(main);
  // Once the incumbent has left, its place is the candidate's.
  return sketch_.Count(keys_[candidate]) > sketch_.Count(keys_[incumbent]) ? incumbent : candidate;
}

void WTinyLfuPolicy::Defer(BlockId id) {
  if (lists_.Contains(id)) Protect(id);
}

}  // namespace stem
