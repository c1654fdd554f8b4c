#include "storage/policy/leaf_first.h"

#include <algorithm>

namespace stem {

void LeafFirst::Admit(BlockId id, const BlockInfo& info) {
  size_t ids = held_.size();
  ids = std::max(ids, id + size_t{1});
  if (info.parent != kNoBlock) ids = std::max(ids, info.parent + size_t{1});
  if (ids > held_.size()) {
    held_.resize(ids);
    parents_.resize(ids, kNoBlock);
    children_.AddLists(ids - children_.lists());
  }
  held_[id] = true;
  parents_[id] = info.parent;
  if (info.parent != kNoBlock) children_.PushBack(info.parent, id);
  ranked_->Admit(id, info);
}

void LeafFirst::Touch(BlockId id, const BlockInfo& info) {
  if (id >= held_.size() || !held_[id]) return;
  if (parents_[id] != kNoBlock) children_.MoveToBack(parents_[id], id);
  ranked_->Touch(id, info);
}

void LeafFirst::Remove(BlockId id) {
  if (id >= held_.size() || !held_[id]) return;
  held_[id] = false;
  if (id == resume_) resume_ = parents_[id];
  if (id == root_) root_ = kNoBlock;
  if (parents_[id] != kNoBlock) children_.Unlink(id);
  ranked_->Remove(id);
}

std::optional<BlockId> LeafFirst::Victim() {
  const std::optional<BlockId> root = ranked_->Victim();
  if (!root.has_value()) return root;
  if (*root != root_) resume_ = *root;
  root_ = *root;
  resume_ = LeafBelow(resume_ == kNoBlock || !held_[resume_] ? root_ : resume_);
  return resume_;
}

BlockId LeafFirst::LeafBelow(BlockId id) {
  while (!children_.empty(id)) id = children_.Front(id);
  return id;
}

void LeafFirst::Defer(BlockId id) {
  if (id >= held_.size() || !held_[id]) return;
  // What hangs above a block that cannot go cannot go either.
  if (id == resume_ && root_ != id && root_ != kNoBlock) ranked_->Defer(root_);
  if (parents_[id] != kNoBlock) children_.MoveToBack(parents_[id], id);
  resume_ = root_ = kNoBlock;
  ranked_->Defer(id);
}

}  // namespace stem
