#include "storage/policy/shadow_tier.h"

namespace stem {

uint32_t ShadowTier::Request(std::span<const BlockInfo> chain) {
  uint32_t hits = 0;
  bool leading = true;
  BlockId parent = kNoBlock;
  for (BlockInfo info : chain) {
    info.parent = parent;
    const auto [it, added] = held_.try_emplace(info.key, kNoBlock);
    if (added) {
      leading = false;
      if (free_.empty()) {
        it->second = static_cast<BlockId>(keys_.size());
        keys_.push_back(info.key);
      } else {
        it->second = free_.back();
        free_.pop_back();
        keys_[it->second] = info.key;
      }
      policy_->Admit(it->second, info);
    } else {
      policy_->Touch(it->second, info);
    }
    hits += leading ? 1 : 0;
    parent = it->second;
  }
  while (held_.size() > capacity_) {
    const std::optional<BlockId> victim = policy_->Victim();
    if (!victim.has_value()) break;
    policy_->Remove(*victim);
    held_.erase(keys_[*victim]);
    free_.push_back(*victim);
  }
  return hits;
}

}  // namespace stem
