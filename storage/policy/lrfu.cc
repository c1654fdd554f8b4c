#include "storage/policy/lrfu.h"

#include <cmath>
#include <limits>

namespace stem {

void LrfuPolicy::Place(BlockId id, double order) {
  Entry& entry = entries_[id];
  if (entry.held) ranked_.erase({entry.order, id});
  entry.held = true;
  entry.order = order;
  ranked_.emplace(order, id);
}

void LrfuPolicy::Admit(BlockId id, const BlockInfo& /*info*/) {
  if (id >= entries_.size()) entries_.resize(id + size_t{1});
  const double rank = static_cast<double>(++uses_) * decay_;
  Place(id, rank);
  entries_[id].rank = rank;
}

void LrfuPolicy::Touch(BlockId id, const BlockInfo& /*info*/) {
  if (id >= entries_.size() || !entries_[id].held) return;
  const double at = static_cast<double>(++uses_) * decay_;
  // Worth now: 1 for this use and what is left of the earlier ones.
  const double rank = at + std::log2(1 + std::exp2(entries_[id].rank - at));
  Place(id, rank);
  entries_[id].rank = rank;
}

void LrfuPolicy::Remove(BlockId id) {
  if (id >= entries_.size() || !entries_[id].held) return;
  ranked_.erase({entries_[id].order, id});
  entries_[id].held = false;
}

std::optional<BlockId> LrfuPolicy::Victim() {
  if (ranked_.empty()) return std::nullopt;
  return ranked_.begin()->second;
}

void LrfuPolicy::Defer(BlockId id) {
  if (id < entries_.size() && entries_[id].held) Place(id, std::numeric_limits<double>::infinity());
}

}  // namespace stem
