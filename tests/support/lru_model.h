// What a cluster of LRU nodes must hit, in the fewest lines: the model that a real replay is held against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace stem {

// One node: blocks by last use. `closed`: law 7, only a block without held children is a victim; else any.
class LruNode {
 public:
  explicit LruNode(bool closed) : closed_(closed) {}

  bool holds(uint64_t id) const { return blocks_.contains(id); }
  size_t size() const { return blocks_.size(); }
  // Adds or refreshes blocks ids[first..], in chain order, at times after `*now`.
  void Touch(std::span<const uint64_t> ids, size_t first, uint64_t* now);
  void EvictDownTo(size_t capacity_blocks);

 private:
  struct Block {
    uint64_t used = 0;
    uint64_t parent = 0;  // id + 1; 0 = starts its chain
    uint32_t children = 0;
  };
  bool closed_;
  std::unordered_map<uint64_t, Block> blocks_;
  std::set<std::pair<uint64_t, uint64_t>> victims_;  // (used, id) of every block that may leave
};

// Nodes behind round-robin routing. Per request: the leading run that its node holds, then the longest
// continuation held by one other node, which is copied to the request's node; the rest is published there.
class LruModel {
 public:
  LruModel(size_t nodes, size_t capacity_blocks, bool closed)
      : nodes_(nodes, LruNode(closed)), capacity_blocks_(capacity_blocks) {}

  // Serves one request and returns how many of its blocks were hits, local and remote.
  struct Hits {
    size_t local = 0;
    size_t remote = 0;
  };
  Hits Serve(std::span<const uint64_t> hash_ids);

 private:
  std::vector<LruNode> nodes_;
  size_t capacity_blocks_;
  size_t next_ = 0;
  uint64_t now_ = 0;
};

}  // namespace stem
