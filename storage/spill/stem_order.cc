#include "storage/spill/stem_order.h"

#include "absl/container/flat_hash_map.h"

namespace stem {

std::vector<size_t> StemOrder(std::span<const SpillWrite> writes) {
  constexpr size_t kNone = SIZE_MAX;
  absl::flat_hash_map<BlockName, size_t> position;
  for (size_t i = 0; i < writes.size(); ++i) position.emplace(writes[i].meta.name, i);

  // Children of one parent as a list, the first of them first.
  std::vector<size_t> first_child(writes.size(), kNone);
  std::vector<size_t> next_sibling(writes.size(), kNone);
  std::vector<size_t> open;  // a stack
  for (size_t i = writes.size(); i-- > 0;) {
    const BlockMeta& meta = writes[i].meta;
    const auto parent = meta.parent.has_value() ? position.find({meta.name.space, *meta.parent}) : position.end();
    if (parent == position.end() || parent->second == i) {
      open.push_back(i);
      continue;
    }
    next_sibling[i] = first_child[parent->second];
    first_child[parent->second] = i;
  }

  std::vector<size_t> order;
  order.reserve(writes.size());
  std::vector<bool> placed(writes.size(), false);
  while (!open.empty()) {
    const size_t i = open.back();
    open.pop_back();
    order.push_back(i);
    placed[i] = true;
    if (next_sibling[i] != kNone) open.push_back(next_sibling[i]);
    if (first_child[i] != kNone) open.push_back(first_child[i]);
  }
  // Keys are hashes, so no real chain is a ring; but nothing that was given may be left out.
  for (size_t i = 0; i < writes.size(); ++i) {
    if (!placed[i]) order.push_back(i);
  }
  return order;
}

}  // namespace stem
