#include "storage/policy/arc.h"

#include <algorithm>

namespace stem {

void ArcPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= keys_.size()) keys_.resize(id + size_t{1});
  keys_[id] = info.key;
  const auto once = static_cast<double>(once_ghosts_.size());
  const auto often = static_cast<double>(often_ghosts_.size());
  came_from_often_ = false;
  if (once_ghosts_.Erase(info.key)) {
    once_target_ = std::min(capacity_, once_target_ + std::max(1.0, often / once));
    lists_.PushBack(kOften, id);
  } else if (often_ghosts_.Erase(info.key)) {
    once_target_ = std::max(0.0, once_target_ - std::max(1.0, once / often));
    came_from_often_ = true;
    lists_.PushBack(kOften, id);
  } else {
    lists_.PushBack(kOnce, id);
  }
}

void ArcPolicy::Touch(BlockId id, const BlockInfo& /*info*/) { Defer(id); }

void ArcPolicy::Remove(BlockId id) {
  if (!lists_.Contains(id)) return;
  (lists_.ListOf(id) == kOnce ? once_ghosts_ : often_ghosts_).Push(keys_[id]);
  lists_.Unlink(id);
  TrimGhosts();
}

// The paper's bounds: t1 and b1 within the capacity, all four within twice the capacity.
void ArcPolicy::TrimGhosts() {
  const auto capacity = static_cast<size_t>(capacity_);
  const size_t once = lists_.size(kOnce);
  const size_t held = once + lists_.size(kOften);
  once_ghosts_.TrimTo(capacity - std::min(capacity, once));
  often_ghosts_.TrimTo(2 * capacity - std::min(2 * capacity, held + once_ghosts_.size()));
}

std::optional<BlockId> ArcPolicy::Victim() {
  const auto once = static_cast<double>(lists_.size(kOnce));
  const bool from_once = once > once_target_ || (came_from_often_ && once >= once_target_);
  for (const uint32_t list : {from_once ? kOnce : kOften, from_once ? kOften : kOnce}) {
    if (!lists_.empty(list)) return lists_.Front(list);
  }
  return std::nullopt;
}

void ArcPolicy::Defer(BlockId id) {
  if (lists_.Contains(id)) lists_.MoveToBack(kOften, id);
}

}  // namespace stem
