// Tensor-parallel degrees: which KV heads a rank holds, how a namespace cuts its blocks into parts by heads, and which
// parts (and which of their heads) a rank of any other degree reads. Pure functions, any thread.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/block_copy.h"
#include "proto/kv_layout.h"
#include "proto/namespace_spec.h"

namespace stem {

struct HeadRange {
  uint32_t first = 0;
  uint32_t count = 0;

  friend bool operator==(const HeadRange&, const HeadRange&) = default;
};

// The KV heads of rank `rank` of `degree`: kv_heads / degree in a row; where there are more ranks than heads, each head is
// on degree / kv_heads ranks in a row. Errors: InvalidArgument (a zero, no such rank, degree and kv_heads of which
// neither divides the other).
absl::StatusOr<HeadRange> HeadsOfRank(uint32_t kv_heads, uint32_t degree, uint32_t rank);

// Whether a rank publishes its heads: the first of those that hold the same ones does. Errors: as of HeadsOfRank.
absl::StatusOr<bool> PublishesHeads(uint32_t kv_heads, uint32_t degree, uint32_t rank);

// The parts of a namespace that ranks of `degree` publish: one for each run of heads, all layers, ids from 0 on; a latent
// has one. Errors: InvalidArgument (as of HeadsOfRank; more than 64 parts).
absl::StatusOr<std::vector<Part>> HeadParts(const KvLayout& layout, uint32_t degree, uint32_t block_tokens);

// A part and the copy between its blocks and a rank's pages: pass `shape` to Gather or Scatter.
struct PartCopy {
  uint32_t part = 0;  // its id
  BlockShape shape;
};

// How a rank that holds `heads` reads or writes blocks that lie as `parts` (of one group): for each part that has some of
// them, in order. `pages`: the rank's shape as for its own blocks, heads.count heads; layer_first and
// layer_count are those layers of the model that its cache holds (the copies' layer_first counts from the cache's first).
// Every head of every layer must lie in exactly one part. Errors: InvalidArgument otherwise, naming the layer and head.
absl::StatusOr<std::vector<PartCopy>> PlanParts(const BlockShape& pages, HeadRange heads, std::span<const Part> parts);

}  // namespace stem
