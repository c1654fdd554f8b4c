#include "services/node/announce/chain_order.h"

#include <cstdint>

#include "absl/container/flat_hash_map.h"

namespace stem {

std::vector<BlockChange> InChainOrder(const std::vector<BlockChange>& changes) {
  constexpr uint32_t kNone = UINT32_MAX;
  absl::flat_hash_map<BlockName, uint32_t> numbers;
  numbers.reserve(changes.size());
  for (uint32_t i = 0; i < changes.size(); ++i) numbers.emplace(changes[i].name, i);
  std::vector<uint32_t> first_child(changes.size(), kNone);
  std::vector<uint32_t> next_sibling(changes.size(), kNone);
  std::vector<uint32_t> waiting;  // from the last on: first the starts of chains
  for (uint32_t i = 0; i < changes.size(); ++i) {
    const auto parent = changes[i].parent ? numbers.find({.space = changes[i].name.space, .key = *changes[i].parent})
                                          : numbers.end();
    if (parent == numbers.end()) {
      waiting.push_back(i);
    } else {
      next_sibling[i] = first_child[parent->second];
      first_child[parent->second] = i;
    }
  }
  std::vector<BlockChange> ordered;
  ordered.reserve(changes.size());
  while (!waiting.empty()) {
    uint32_t block = waiting.back();
    waiting.pop_back();
    for (; block != kNone; block = first_child[block]) {
      ordered.push_back(changes[block]);
      if (next_sibling[block] != kNone) waiting.push_back(next_sibling[block]);
    }
  }
  return ordered;
}

}  // namespace stem
