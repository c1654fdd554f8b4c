// A tier that holds no bytes: what a policy would have hit, told from a sample of the blocks (as SHARDS does: Waldspurger et al.,
// FAST 2015) at a capacity of the same proportion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "storage/policy/eviction.h"

namespace stem {

class ShadowTier {
 public:
  // `policy` keeps law 7, and is for `capacity_blocks`: as many of the sampled blocks.
  ShadowTier(std::unique_ptr<EvictionPolicy> policy, size_t capacity_blocks)
      : policy_(std::move(policy)), capacity_(capacity_blocks) {}

  // One request's sampled blocks, in chain order. Returns how many of them were held, up to the first that was not.
  uint32_t Request(std::span<const BlockInfo> chain);

 private:
  const std::unique_ptr<EvictionPolicy> policy_;
  const size_t capacity_;
  absl::flat_hash_map<uint64_t, BlockId> held_;  // by key
  std::vector<uint64_t> keys_;                   // by id
  std::vector<BlockId> free_;
};

}  // namespace stem
