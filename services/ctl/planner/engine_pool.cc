#include "services/ctl/planner/engine_pool.h"

#include <algorithm>
#include <limits>

namespace stem::planner {
namespace {

// With prefix caching a state is kept where the prompt may resume and where it is being computed (mamba_cache_mode
// "align"); one more for each draft token.
constexpr uint64_t kStateBlocks = 2;

uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

}  // namespace

EnginePool::EnginePool(const KvBytes& kv)
    : block_tokens_(kv.engine_block_tokens()), draft_tokens_(kv.holding().draft_tokens) {
  uint64_t fewest = std::numeric_limits<uint64_t>::max(), most = 0, page_bytes = 0;
  for (const LayerGroup& group : kv.shape().groups) {
    if (group.kind == LayerKind::kNone) continue;
    const uint64_t layers = kv.RankLayers(group);
    groups_.push_back({group, layers});
    fewest = std::min(fewest, layers);
    most = std::max(most, layers);
    page_bytes = std::max({page_bytes, kv.TokenLayerBytes(group) * block_tokens_, kv.StateLayerBytes(group)});
  }
  // The rarest kind sets the size, unless the kinds are nearly as many (less than 1.5 times): then the commonest does.
  const uint64_t each = 2 * most < 3 * fewest ? most : fewest;
  for (PoolGroup& group : groups_) {
    const uint64_t layers = group.groups;
    group.groups = CeilDiv(layers, each);
    padding_layers_ += group.groups * each - layers;
  }
  block_bytes_ = each * page_bytes;
}

uint64_t EnginePool::Sum(uint64_t context, uint64_t in_flight_tokens, bool held) const {
  const uint64_t tokens = context + draft_tokens_;
  const uint64_t all = CeilDiv(tokens, block_tokens_);
  uint64_t blocks = 0;
  for (const PoolGroup& group : groups_) {
    uint64_t each = all;
    if (group.layers.kind == LayerKind::kLinear) {
      each = kStateBlocks + draft_tokens_;
    } else if (group.layers.kind == LayerKind::kSliding && group.layers.chunked) {
      each = CeilDiv(std::min(group.layers.window + in_flight_tokens, tokens), block_tokens_);
    } else if (group.layers.kind == LayerKind::kSliding) {
      // A window's first block is partly outside it.
      each = CeilDiv(std::min(group.layers.window - 1 + in_flight_tokens + draft_tokens_, tokens), block_tokens_) + 1;
      if (held) each = std::min(each, all);
    }
    blocks += group.groups * each;
  }
  return blocks;
}

}  // namespace stem::planner
