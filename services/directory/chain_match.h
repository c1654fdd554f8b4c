// The longest leading run of a chain that the members hold, who serves which part of it, and why the rest is missing.
// Pure reads of the index under one view of the members. Threads: any.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/validate.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"

namespace stem {

struct ChainRun {
  uint32_t first = 0;
  uint32_t count = 0;
  uint16_t node = 0;  // index into the view's nodes
  uint8_t tier = 0;   // a v1::Tier
};

struct ChainMiss {
  uint32_t first = 0;
  uint32_t count = 0;
  v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;
};

struct ChainMatch {
  uint32_t matched_blocks = 0;
  std::vector<ChainRun> runs;     // cover 0..matched_blocks-1; a run ends where the holder or the tier changes
  std::vector<ChainMiss> misses;  // cover the rest; neighbours differ in cause
};

// A block matches when one node, not the requester, has all its parts. A holder is kept for as long as it has the
// next block; where one must be chosen, pool beats SSD, then who reaches farthest, then the key decides.
ChainMatch MatchChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call);

struct ChainScore {
  uint32_t matched_blocks = 0;  // leading run that the node has by itself
  uint32_t pool_blocks = 0;
  uint32_t ssd_blocks = 0;
};
// One per node of the view, same order.
std::vector<ChainScore> ScoreChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call);

}  // namespace stem
