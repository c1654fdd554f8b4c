// What a replay counted, and how it is told: a table for people, a JSON document with stable names for machines.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/time/time.h"
#include "services/ctl/latency_histogram.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

// Whether a prompt's last block counts when it is not full.
enum class PartialBlock {
  kCount,  // every hash id is one full block
  kDrop,   // left out; its tokens miss as below_block
};

inline constexpr size_t kMismatchExamplesMax = 20;  // described in a report; all are counted

// What became of blocks that were missing. The first four add up, with `failed`, to every block offered.
struct PublishCounts {
  uint64_t committed = 0;
  uint64_t duplicate = 0;        // another client's copy was first
  uint64_t not_wanted = 0;       // held by the node already, or being published by another client
  uint64_t refused = 0;          // by the node: overload or a missing parent
  uint64_t failed = 0;           // the node was lost or the deadline passed
  std::string refused_reason;    // of the first that was, as the node said
};

// Counts of one client, or of all. Every block of every request is in `hits` or in `misses`, once; the same holds for
// tokens. Not for two threads at once: keep one per thread and Add() them up.
struct ReplayTally {
  static constexpr size_t kSources = stemcache::v1::Source_ARRAYSIZE;
  static constexpr size_t kCauses = stemcache::v1::MissCause_ARRAYSIZE;

  uint64_t requests = 0;
  uint64_t prompt_tokens = 0;
  uint64_t matched_tokens = 0;
  std::array<uint64_t, kSources> hits = {};           // blocks, by v1::Source
  std::array<uint64_t, kSources> bytes_loaded = {};   // by v1::Source
  std::array<uint64_t, kCauses> misses = {};          // blocks, by v1::MissCause
  std::array<uint64_t, kCauses> miss_tokens = {};     // by v1::MissCause
  uint64_t bytes_published = 0;
  uint64_t mismatches = 0;                            // blocks with a wrong byte
  std::vector<std::string> mismatch_examples;         // the first of them: which block, which byte, what was seen
  PublishCounts publish;
  LatencyHistogram match_latency;                     // Acquire sent -> promised
  LatencyHistogram acquire_latency;                   // Acquire sent -> last promised block landed
  LatencyHistogram load_latency;                      // of a request with hits: copy and proof into own memory
  LatencyHistogram publish_latency;                   // of a request with misses: Reserve -> last Commit answered

  void Add(const ReplayTally& other);

  uint64_t hit_blocks() const;
  uint64_t miss_blocks() const;
  double block_hit_rate() const;  // 0 when there were no blocks
  double token_hit_rate() const;
};

struct ReplayReport {
  ReplayTally tally;
  PartialBlock partial = PartialBlock::kCount;
  absl::Duration wall;

  nlohmann::json ToJson() const;
  std::string ToTable() const;
  // One sentence: what the hit rates are rates of.
  std::string Definition() const;
};

}  // namespace stem
