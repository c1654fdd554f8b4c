#include "storage/policy/lru_stack.h"

#include <algorithm>

namespace stem {

uint64_t LruStack::Depth(uint32_t id) const {
  if (id >= entries_.size() || entries_[id].last == 0) return 0;
  int64_t before = 0;
  for (uint64_t i = entries_[id].last - 1; i > 0; i &= i - 1) before += tree_[i - 1];
  return weight_ - static_cast<uint64_t>(before);
}

void LruStack::Use(uint32_t id, uint32_t weight) {
  if (now_ == tree_.size()) Renumber(ByUse());
  if (id >= entries_.size()) entries_.resize(std::max<size_t>(id + size_t{1}, entries_.size() * 3 / 2));
  Entry& entry = entries_[id];
  if (entry.last != 0) {
    Add(entry.last - 1, -int64_t{entry.weight});
  } else {
    entry.weight = weight;
    weight_ += weight;
    ++size_;
  }
  Add(now_, entry.weight);
  entry.last = ++now_;
}

std::vector<uint32_t> LruStack::TakeOldest(size_t count) {
  std::vector<uint32_t> by_use = ByUse();
  const auto rest = by_use.begin() + static_cast<ptrdiff_t>(std::min(count, by_use.size()));
  const std::vector<uint32_t> taken(by_use.begin(), rest);
  for (const uint32_t id : taken) {
    weight_ -= entries_[id].weight;
    entries_[id] = {};
  }
  size_ -= taken.size();
  by_use.erase(by_use.begin(), rest);
  Renumber(by_use);
  return taken;
}

void LruStack::Add(uint64_t time, int64_t weight) {
  for (uint64_t i = time + 1; i <= tree_.size(); i += i & (~i + 1)) tree_[i - 1] += weight;
}

std::vector<uint32_t> LruStack::ByUse() const {
  std::vector<uint32_t> by_use;
  by_use.reserve(size_);
  for (uint32_t id = 0; id < entries_.size(); ++id) {
    if (entries_[id].last != 0) by_use.push_back(id);
  }
  std::sort(by_use.begin(), by_use.end(), [&](uint32_t a, uint32_t b) { return entries_[a].last < entries_[b].last; });
  return by_use;
}

void LruStack::Renumber(const std::vector<uint32_t>& by_use) {
  tree_.assign(std::max<size_t>(2 * by_use.size(), 1 << 12), 0);
  now_ = 0;
  for (const uint32_t id : by_use) {
    Add(now_, entries_[id].weight);
    entries_[id].last = ++now_;
  }
}

}  // namespace stem
