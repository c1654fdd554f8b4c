#include "storage/policy/lfu.h"

#include <algorithm>

namespace stem {

void LfuPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= entries_.size()) entries_.resize(id + size_t{1});
  entries_[id] = {.key = info.key, .uses = ghosts_.Take(info.key)};
  by_uses_.PushBack(0, id);
  Use(id);
}

void LfuPolicy::Use(BlockId id) {
  const uint32_t uses = entries_[id].uses = std::min(entries_[id].uses + 1, kUsesMax);
  while (uses >= by_uses_.lists()) by_uses_.AddLists(1);
  by_uses_.MoveToBack(uses, id);
  least_ = std::min(least_, uses);
}

void LfuPolicy::Touch(BlockId id, const BlockInfo& /*info*/) {
  if (by_uses_.Contains(id)) Use(id);
}

void LfuPolicy::Remove(BlockId id) {
  if (!by_uses_.Contains(id)) return;
  by_uses_.Unlink(id);
  ghosts_.Put(entries_[id].key, entries_[id].uses);
}

std::optional<BlockId> LfuPolicy::Victim() {
  while (least_ < by_uses_.lists() && by_uses_.empty(least_)) ++least_;
  if (least_ < by_uses_.lists()) return by_uses_.Front(least_);
  if (by_uses_.empty(0)) return std::nullopt;
  return by_uses_.Front(0);
}

void LfuPolicy::Defer(BlockId id) {
  if (by_uses_.Contains(id)) by_uses_.MoveToBack(0, id);
}

}  // namespace stem
