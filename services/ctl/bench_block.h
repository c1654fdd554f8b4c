// How fast blocks come to an engine, by path, on a temporary cluster of real processes, beside what this machine does without us.
// Every block is proved as users' are, and after the clock has stopped, compared with what was published.
#pragma once

#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "client/stem.h"
#include "proto/status.h"

namespace stem {

enum class BenchPath {
  kLocal,      // published on the client's own node: acquired, loaded, released
  kLocalGet,   // the same by Get, without a call
  kRemoteShm,  // on another node of this host, whose memory is mapped
  kRemoteTcp,  // on another node, read through UCX over loopback TCP
  kSsd,        // on the client's own node, in its SSD tier
};
inline constexpr BenchPath kBenchPaths[] = {BenchPath::kLocal, BenchPath::kLocalGet, BenchPath::kRemoteShm, BenchPath::kRemoteTcp,
                                           BenchPath::kSsd};
const char* NameOf(BenchPath path);

struct BenchBlockOptions {
  std::vector<BenchPath> paths = {std::begin(kBenchPaths), std::end(kBenchPaths)};
  std::vector<uint64_t> block_bytes = {64 << 10, 2 << 20};
  std::vector<uint32_t> stem_blocks = {1, 64};
  std::vector<uint32_t> threads = {1};     // that fetch at a time, each its own stems
  uint32_t load_threads = 1;               // that copy for one stem
  uint64_t working_set_bytes = 256 << 20;  // of one round: many times the cache
  uint32_t rounds = 5;                     // figures are their medians
  LocalProof proof = LocalProof::kFull;    // of the client's copy out of its node; a node proves what comes from elsewhere in full
  std::string binaries;                    // folder of stem-directory and stem-node
};

// One path, block size, stem length and number of threads. Times in microseconds per stem, rates in bytes per second, medians over the
// rounds.
struct BenchBlockRow {
  BenchPath path = BenchPath::kLocal;
  uint64_t block_bytes = 0;
  uint32_t stem_blocks = 0;
  uint32_t threads = 0;
  double echo_p50_us = 0;     // an empty message there and back on an open stream: the least that a call can cost
  double acquire_p50_us = 0;  // Acquire sent -> its answer; 0 of Get
  double stem_p50_us = 0;     // asked -> every block proved in the caller's memory
  double stem_p99_us = 0;
  double rate = 0;            // of that, over a round: a client copies what has landed while the rest is on its way
  double cpu_seconds_per_gb = 0;  // of all processes, per 10^9 bytes
  double memcpy_rate = 0;
  double streamed_copy_rate = 0;
  double tcp_rate = 0;        // 0 unless the path is TCP
  double disk_rate = 0;       // 0 unless the path is the SSD
  double ratio = 0;           // rate to memcpy's, or over TCP to the socket's, or to the disk's; of each round, the median
};

// Starts a cluster of its own in a temporary folder for each path, and removes it. Errors: InvalidArgument (an option, named),
// DataLoss (a byte was wrong), ResourceExhausted, Unavailable.
absl::StatusOr<std::vector<BenchBlockRow>> RunBenchBlock(const BenchBlockOptions& options);

std::string ToTable(const std::vector<BenchBlockRow>& rows);
nlohmann::json ToJson(const std::vector<BenchBlockRow>& rows);

}  // namespace stem
