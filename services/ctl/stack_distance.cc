#include "services/ctl/stack_distance.h"

#include <algorithm>

namespace stem {

void StackDistance::Request(std::span<const uint32_t> blocks, bool counted) {
  uint64_t room = 0;  // that the run up to here needs
  bool leading = true;
  for (const uint32_t block : blocks) {
    if (!counted) break;
    ++references_;
    const uint64_t depth = leading ? stack_.Depth(block) : 0;
    leading = depth > 0;
    if (!leading) continue;
    room = std::max(room, depth);
    if (room > hits_at_.size()) hits_at_.resize(room);
    ++hits_at_[room - 1];
  }
  for (const uint32_t block : blocks) stack_.Use(block, 1);
}

uint64_t StackDistance::Hits(uint64_t capacity_blocks) const {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < std::min<uint64_t>(capacity_blocks, hits_at_.size()); ++i) hits += hits_at_[i];
  return hits;
}

}  // namespace stem
