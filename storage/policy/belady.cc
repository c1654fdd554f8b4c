#include "storage/policy/belady.h"

namespace stem {

void BeladyPolicy::Place(BlockId id, uint64_t next) {
  Entry& entry = entries_[id];
  if (entry.held) by_next_.erase({entry.next, id});
  entry = {.held = true, .next = next};
  by_next_.emplace(next, id);
}

void BeladyPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= entries_.size()) entries_.resize(id + size_t{1});
  Place(id, next_use_(info.key));
}

void BeladyPolicy::Touch(BlockId id, const BlockInfo& info) {
  if (id < entries_.size() && entries_[id].held) Place(id, next_use_(info.key));
}

void BeladyPolicy::Remove(BlockId id) {
  if (id >= entries_.size() || !entries_[id].held) return;
  by_next_.erase({entries_[id].next, id});
  entries_[id].held = false;
}

std::optional<BlockId> BeladyPolicy::Victim() {
  if (by_next_.empty()) return std::nullopt;
  return by_next_.rbegin()->second;
}

void BeladyPolicy::Defer(BlockId id) {
  if (id < entries_.size() && entries_[id].held) Place(id, 0);
}

}  // namespace stem
