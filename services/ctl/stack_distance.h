// The whole miss-ratio curve of LRU in one pass: a block is held at capacity C exactly if fewer than C distinct blocks were used
// since (storage/policy/lru_stack.h); here with the strict prefix: all blocks before it must be held too.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "storage/policy/lru_stack.h"

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
  LruStack stack_;
  std::vector<uint64_t> hits_at_;   // [d]: references that need d + 1 blocks of room
  uint64_t references_ = 0;
};

}  // namespace stem
