// Blocks in the order of their chains: what makes a snapshot short on the wire and cheap in a directory.
#pragma once

#include <vector>

#include "storage/pool/block_pool.h"

namespace stem {

// The same changes, at most 2^32 of distinct names: each chain from its first block on, a block's first child right behind
// it, its other children after that one's descendants.
std::vector<BlockChange> InChainOrder(const std::vector<BlockChange>& changes);

}  // namespace stem
