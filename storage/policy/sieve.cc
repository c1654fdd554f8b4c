#include "storage/policy/sieve.h"

namespace stem {

void SievePolicy::Admit(BlockId id, const BlockInfo& /*info*/) {
  if (id >= used_.size()) used_.resize(id + size_t{1});
  used_[id] = false;
  queue_.PushBack(0, id);
}

void SievePolicy::Touch(BlockId id, const BlockInfo& /*info*/) {
  if (queue_.Contains(id)) used_[id] = true;
}

void SievePolicy::Remove(BlockId id) {
  if (!queue_.Contains(id)) return;
  if (id == hand_) hand_ = queue_.Next(id);
  queue_.Unlink(id);
}

std::optional<BlockId> SievePolicy::Victim() {
  if (queue_.empty(0)) return std::nullopt;
  if (hand_ == kNoBlock) hand_ = queue_.Front(0);
  while (used_[hand_]) {
    used_[hand_] = false;
    hand_ = queue_.Next(hand_);
    if (hand_ == kNoBlock) hand_ = queue_.Front(0);
  }
  return hand_;
}

// As a newcomer: the hand reaches it last.
void SievePolicy::Defer(BlockId id) {
  if (!queue_.Contains(id)) return;
  Remove(id);
  queue_.PushBack(0, id);
}

}  // namespace stem
