#include "storage/policy/eviction.h"

namespace stem {

void LruPolicy::Admit(BlockId id, const BlockInfo& /*info*/, absl::Time /*now*/) {
  if (id >= links_.size()) links_.resize(id + 1);
  PushNewest(id);
}

void LruPolicy::Touch(BlockId id, absl::Time /*now*/) {
  if (id == newest_) return;
  Unlink(id);
  PushNewest(id);
}

void LruPolicy::Remove(BlockId id) { Unlink(id); }

std::optional<BlockId> LruPolicy::Victim(absl::Time /*now*/) const {
  if (oldest_ == kNoBlock) return std::nullopt;
  return oldest_;
}

void LruPolicy::Defer(BlockId id, absl::Time now) { Touch(id, now); }

void LruPolicy::PushNewest(BlockId id) {
  links_[id] = {.newer = kNoBlock, .older = newest_};
  if (newest_ != kNoBlock) links_[newest_].newer = id;
  newest_ = id;
  if (oldest_ == kNoBlock) oldest_ = id;
}

void LruPolicy::Unlink(BlockId id) {
  const Link link = links_[id];
  (link.newer == kNoBlock ? newest_ : links_[link.newer].older) = link.older;
  (link.older == kNoBlock ? oldest_ : links_[link.older].newer) = link.newer;
}

}  // namespace stem
