#include "services/ctl/stack_distance.h"

#include <algorithm>
#include <utility>

namespace stem {

void StackDistance::Request(std::span<const uint32_t> blocks, bool counted) {
  uint64_t room = 0;  // that the run up to here needs
  bool leading = true;
  for (const uint32_t block : blocks) {
    if (counted) ++references_;
    leading = leading && block < last_.size() && last_[block] != 0;
    if (!leading || !counted) continue;
    room = std::max(room, UsedSince(last_[block] - 1));
    if (room > hits_at_.size()) hits_at_.resize(room);
    ++hits_at_[room - 1];
  }
  for (const uint32_t block : blocks) {
    if (now_ == tree_.size()) Renumber();
    if (block >= last_.size()) last_.resize(std::max<size_t>(block + size_t{1}, last_.size() * 3 / 2));
    if (last_[block] != 0) {
      Add(last_[block] - 1, -1);
    } else {
      ++distinct_;
    }
    Add(now_, 1);
    last_[block] = ++now_;
  }
}

uint64_t StackDistance::Hits(uint64_t capacity_blocks) const {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < std::min<uint64_t>(capacity_blocks, hits_at_.size()); ++i) hits += hits_at_[i];
  return hits;
}

uint64_t StackDistance::UsedSince(uint64_t time) const {
  int64_t before = 0;
  for (uint64_t i = time; i > 0; i &= i - 1) before += tree_[i - 1];
  return distinct_ - static_cast<uint64_t>(before);
}

void StackDistance::Add(uint64_t time, int64_t count) {
  for (uint64_t i = time + 1; i <= tree_.size(); i += i & (~i + 1)) tree_[i - 1] += count;
}

void StackDistance::Renumber() {
  std::vector<std::pair<uint64_t, uint32_t>> by_use;
  by_use.reserve(distinct_);
  for (uint32_t block = 0; block < last_.size(); ++block) {
    if (last_[block] != 0) by_use.emplace_back(last_[block], block);
  }
  std::sort(by_use.begin(), by_use.end());
  tree_.assign(std::max<size_t>(2 * by_use.size(), 1 << 16), 0);
  now_ = 0;
  for (const auto& [last, block] : by_use) {
    Add(now_, 1);
    last_[block] = ++now_;
  }
}

}  // namespace stem
