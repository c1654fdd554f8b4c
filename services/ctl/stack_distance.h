// The whole miss-ratio curve of LRU in one pass: a block is held at capacity C exactly if fewer than C distinct blocks were used
// since (Mattson et al., IBM Systems Journal 9(2), 1970); here with the strict prefix: all blocks before it must be held too.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace stem {

class StackDistance {
 public:
  // One request's chain, blocks by their number among the distinct ones; not counted when `counted` is false.
  void Request(std::span<const uint32_t> blocks, bool counted);

  // Blocks that LRU hits with room for `capacity_blocks`.
  uint64_t Hits(uint64_t capacity_blocks) const;
  uint64_t references() const { return references_; }
  // The least capacity that hits all that can be hit.
  uint64_t capacity_max() const { return hits_at_.size(); }

 private:
  // Blocks used at or after `time`.
  uint64_t UsedSince(uint64_t time) const;
  void Add(uint64_t time, int64_t count);
  // Numbers the uses of blocks anew, without gaps.
  void Renumber();

  std::vector<uint64_t> last_;      // by block: time of its last use + 1; 0 = never
  std::vector<int64_t> tree_;       // Fenwick tree over times: 1 where some block was used last
  std::vector<uint64_t> hits_at_;   // [d]: references that need d + 1 blocks of room
  uint64_t now_ = 0;
  uint64_t distinct_ = 0;
  uint64_t references_ = 0;
};

}  // namespace stem
