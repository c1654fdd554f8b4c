// What directory_bench measures. Each runs in a process of its own, forked before anything was allocated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/bench/directory/shape.h"

namespace stem::bench {

using Json = nlohmann::ordered_json;

// Resident memory of a filled index, per distinct block and per holder's block.
Json Memory(const Shape& shape);

struct LookupOptions {
  std::vector<uint32_t> depths;                         // longer than a chain: the whole chain
  std::vector<double> churn_per_second = {0, 1e6, -1};  // changes that another thread applies; -1 = half its ceiling
  uint32_t rounds = 5;
  uint32_t blocks_per_round = 1 << 20;  // looked up, so that deep stems do not take longer
};
// One row per depth, pattern (hot, random) and churn.
Json Lookup(const Shape& shape, const LookupOptions& options);

// Changes per second: fresh adds, churn, and through HolderStream with decoding; drained.
Json Changes(const Shape& shape);

// One of the shape's nodes is lost: out of sight, reclaimed, and what a match beside it feels.
Json Forget(const Shape& shape);

// From an announcement, encoded, to the first whole answer on another thread.
Json Visible(const Shape& shape, uint32_t repeats);

// The plainest index, absl::flat_hash_map<fingerprint, std::vector<holder>>, with the same shape.
Json PeerMap(const Shape& shape, const LookupOptions& options);

// The shape's adds as a file that directory_peers.py replays: little-endian records {u32 node, u32 count, u64 chain,
// u64 parent or 0, count x u64 fingerprints}.
Json WriteEvents(const Shape& shape, const std::string& path);

struct GrpcOptions {
  std::string directory_binary;
  uint32_t depth = 1000;
  uint32_t rounds = 5;
  double seconds = 3;  // of each round under load
};
// Match against an empty echo of the same sizes: each in a process of its own, same settings, same client.
Json Grpc(const Shape& shape, const GrpcOptions& options);

}  // namespace stem::bench
