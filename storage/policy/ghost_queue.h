// Keys of blocks that left, oldest first out: what a policy remembers of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace stem {

class GhostQueue {
 public:
  size_t size() const { return places_.size(); }
  bool Contains(uint64_t key) const { return places_.contains(key); }

  // The newest from now on.
  void Push(uint64_t key) {
    places_[key] = ++last_place_;
    queue_.emplace_back(key, last_place_);
    // Erased keys leave holes behind: never more than there are keys.
    if (queue_.size() > 2 * places_.size() + 64) Compact();
  }
  bool Erase(uint64_t key) { return places_.erase(key) > 0; }
  void PopOldest() {
    while (!queue_.empty()) {
      const auto [key, place] = queue_.front();
      queue_.pop_front();
      const auto it = places_.find(key);
      if (it == places_.end() || it->second != place) continue;
      places_.erase(it);
      return;
    }
  }
  void TrimTo(size_t keys_max) {
    while (places_.size() > keys_max) PopOldest();
  }

 private:
  void Compact() {
    std::deque<std::pair<uint64_t, uint64_t>> kept;
    for (const auto& [key, place] : queue_) {
      const auto it = places_.find(key);
      if (it != places_.end() && it->second == place) kept.emplace_back(key, place);
    }
    queue_ = std::move(kept);
  }

  absl::flat_hash_map<uint64_t, uint64_t> places_;
  std::deque<std::pair<uint64_t, uint64_t>> queue_;  // key, place; stale where places_ says otherwise
  uint64_t last_place_ = 0;
};

}  // namespace stem
