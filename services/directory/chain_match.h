// The longest run of a chain that can be loaded from the members, who serves which part of it, and why the rest is
// missing. Pure reads of the index under one view of the members. Threads: any.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "proto/validate.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"

namespace stem {

struct ChainRun {
  uint32_t first = 0;
  uint32_t count = 0;
  uint16_t node = 0;  // index into the view's nodes
  uint8_t tier = 0;   // v1::TIER_DRAM (GPU memory too) or v1::TIER_SSD
};

struct ChainMiss {
  uint32_t first = 0;
  uint32_t count = 0;
  v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;
};

struct ChainMatch {
  uint32_t matched_blocks = 0;
  absl::InlinedVector<ChainRun, 4> runs;     // cover 0..matched_blocks-1; a run ends where the holder or the tier changes
  absl::InlinedVector<ChainMiss, 4> misses;  // cover the rest; neighbours differ in cause
};

// The stem is the longest whose blocks each lie, with all parts that are needed there, on one node that is not the
// requester. A holder is kept for as long as it has the next block; where one must be chosen: one that is trusted, then
// pool before SSD, then the requester's own host, then who reaches farthest, then a draw by key and weight.
ChainMatch MatchChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call);

struct ChainScore {
  uint32_t matched_blocks = 0;  // the stem that the node could serve by itself
  uint32_t pool_blocks = 0;
  uint32_t ssd_blocks = 0;
};
// One per node of the view, same order.
std::vector<ChainScore> ScoreChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call);

}  // namespace stem
