// How often blocks that left had been used: a count by key, the longest gone forgotten first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace stem {

class GhostCounts {
 public:
  explicit GhostCounts(size_t keys_max) : keys_max_(keys_max) {}

  void Put(uint64_t key, uint32_t count) {
    young_[key] = count;
    if (young_.size() <= keys_max_ / 2) return;
    old_ = std::move(young_);  // what was put longest ago is dropped, half of the keys at a time
    young_.clear();
  }
  // The count of `key`, 0 when it is not known.
  uint32_t Count(uint64_t key) const {
    for (const auto* generation : {&young_, &old_}) {
      if (const auto it = generation->find(key); it != generation->end()) return it->second;
    }
    return 0;
  }
  // The count of `key`, 0 when it is not known, and forgets it.
  uint32_t Take(uint64_t key) {
    const uint32_t count = Count(key);
    young_.erase(key);
    old_.erase(key);
    return count;
  }

 private:
  const size_t keys_max_;
  absl::flat_hash_map<uint64_t, uint32_t> young_;
  absl::flat_hash_map<uint64_t, uint32_t> old_;
};

}  // namespace stem
