// How much was used since something was used last: LRU stack distances, in the weight of what lies above (Mattson et al., IBM Systems
// Journal 9(2), 1970). Ids are dense and may be used anew; memory is by the largest id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stem {

class LruStack {
 public:
  // Weight of what was used at or after the last use of `id`, it included; 0 = `id` is not here.
  uint64_t Depth(uint32_t id) const;
  // `id` is used now. `weight` stays as it was at its first use.
  void Use(uint32_t id, uint32_t weight);
  // Takes out the `count` least recently used; returns them.
  std::vector<uint32_t> TakeOldest(size_t count);

  uint64_t weight() const { return weight_; }  // of all
  size_t size() const { return size_; }

 private:
  struct Entry {
    uint64_t last = 0;  // time of its last use + 1; 0 = not here
    uint32_t weight = 0;
  };

  void Add(uint64_t time, int64_t weight);
  std::vector<uint32_t> ByUse() const;  // oldest first
  // Numbers the uses anew, without gaps.
  void Renumber(const std::vector<uint32_t>& by_use);

  std::vector<Entry> entries_;  // by id
  std::vector<int64_t> tree_;   // Fenwick tree over times: the weight of what was used last then
  uint64_t now_ = 0;
  uint64_t weight_ = 0;
  size_t size_ = 0;
};

}  // namespace stem
