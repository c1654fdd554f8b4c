// How a paged engine shares one pool of blocks among layers of several kinds: what decides its largest batch, to the block.
// Source: vLLM 0.32, v1/core/kv_cache_utils.py (get_kv_cache_groups, get_kv_cache_config_from_groups,
// get_max_concurrency_for_kv_cache_config) and v1/kv_cache_interface.py (max_admission_blocks_per_request).
#pragma once

#include <cstdint>
#include <vector>

#include "services/ctl/planner/kv_bytes.h"

namespace stem::planner {

// Layers of one kind, cut into `groups` of equally many: each group takes a block of its own for the same tokens.
struct PoolGroup {
  LayerGroup layers;
  uint64_t groups = 0;
};

// Of the fullest rank. A block is one page of each layer of a group; groups with fewer layers are padded.
class EnginePool {
 public:
  explicit EnginePool(const KvBytes& kv);

  uint64_t block_bytes() const { return block_bytes_; }
  uint64_t Blocks(uint64_t bytes) const { return bytes / block_bytes_; }
  const std::vector<PoolGroup>& groups() const { return groups_; }
  // Layers that are not there but take a page in each block.
  uint64_t padding_layers() const { return padding_layers_; }

  // Blocks of a request of `context` tokens while it is decoded.
  uint64_t HeldBlocks(uint64_t context) const { return Sum(context, 1, true); }
  // Blocks that the engine sets aside for one: window layers keep what is scheduled, too. `in_flight_tokens`: a step's
  // tokens times the steps at a time (2 with asynchronous scheduling).
  uint64_t ReservedBlocks(uint64_t context, uint64_t in_flight_tokens) const {
    return Sum(context, in_flight_tokens, false);
  }

 private:
  uint64_t Sum(uint64_t context, uint64_t in_flight_tokens, bool held) const;

  std::vector<PoolGroup> groups_;
  uint64_t block_bytes_ = 0;
  uint64_t block_tokens_ = 0;
  uint64_t draft_tokens_ = 0;
  uint64_t padding_layers_ = 0;
};

}  // namespace stem::planner
