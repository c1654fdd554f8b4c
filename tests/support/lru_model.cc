#include "tests/support/lru_model.h"

namespace stem {
namespace {

size_t HeldFrom(const LruNode& node, std::span<const uint64_t> ids, size_t first) {
  size_t end = first;
  while (end < ids.size() && node.holds(ids[end])) ++end;
  return end;
}

}  // namespace

void LruNode::Touch(std::span<const uint64_t> ids, size_t first, uint64_t* now) {
  for (size_t i = first; i < ids.size(); ++i) {
    const auto [it, added] = blocks_.try_emplace(ids[i]);
    Block& block = it->second;
    victims_.erase({block.used, ids[i]});
    block.used = ++*now;
    if (closed_ && added && i > 0) {
      block.parent = ids[i - 1] + 1;
      Block& parent = blocks_.at(ids[i - 1]);
      ++parent.children;
      victims_.erase({parent.used, ids[i - 1]});
    }
    if (block.children == 0) victims_.emplace(block.used, ids[i]);
  }
}

void LruNode::EvictDownTo(size_t capacity_blocks) {
  while (blocks_.size() > capacity_blocks) {
    const uint64_t id = victims_.begin()->second;
    victims_.erase(victims_.begin());
    const uint64_t parent_id = blocks_.at(id).parent;
    blocks_.erase(id);
    const auto parent = parent_id == 0 ? blocks_.end() : blocks_.find(parent_id - 1);
    if (parent == blocks_.end()) continue;
    if (--parent->second.children == 0) victims_.emplace(parent->second.used, parent_id - 1);
  }
}

LruModel::Hits LruModel::Serve(std::span<const uint64_t> hash_ids) {
  LruNode& mine = nodes_[next_++ % nodes_.size()];
  const size_t local_end = HeldFrom(mine, hash_ids, 0);
  size_t end = local_end;
  LruNode* owner = nullptr;
  for (LruNode& node : nodes_) {
    const size_t reach = &node == &mine ? 0 : HeldFrom(node, hash_ids, local_end);
    if (reach > end) {
      end = reach;
      owner = &node;
    }
  }
  if (owner != nullptr) owner->Touch(hash_ids.first(end), local_end, &now_);  // a lease is a use at its owner
  mine.Touch(hash_ids, 0, &now_);
  mine.EvictDownTo(capacity_blocks_);
  return {local_end, end - local_end};
}

}  // namespace stem
