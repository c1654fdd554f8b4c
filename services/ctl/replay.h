// Replays a trace against a running cluster through real clients: every block that the cluster serves is compared byte
// by byte with what its publisher must have written (oracle.h), every block that it lacks is written and published.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "services/ctl/progress.h"
#include "services/ctl/replay_report.h"
#include "services/ctl/trace.h"

namespace stem {

enum class Routing {
  kRoundRobin,  // request i to node i modulo nodes
  kSession,     // all requests of a session to one node; without sessions, by the first two blocks of the prompt
  kBestMatch,   // to the node that holds the longest stem, as the directory scores it
};

struct ReplayOptions {
  std::string trace;
  TraceFormat format = TraceFormat::kMooncake;
  std::optional<uint32_t> block_tokens;  // absent = the trace's own
  uint32_t bytes_per_token = 128;        // of KV; block_tokens times this is a block's size, 64 B..1 GiB
  uint32_t clients = 4;  // threads, 1..256, each with a session at every node; 1 = strictly in file order
  uint64_t requests_max = 0;             // 0 = the whole trace
  double speed = 0;                      // times the trace's own pace; 0 = as fast as possible
  Routing routing = Routing::kRoundRobin;
  PartialBlock partial = PartialBlock::kCount;
  absl::Duration deadline = absl::Seconds(2);  // of a request's acquire and load, and of each call that publishes
  uint64_t seed = 1;                     // of publisher ids
  std::vector<std::string> nodes;        // paths of the nodes' Unix sockets
  std::string directory;                 // host:port; needed for kBestMatch
  std::string secret_file;               // needed for kBestMatch
};

// Where a test reaches into a replay.
struct ReplayHooks {
  // Between Load and comparison: payloads of the blocks first_block.. of the request, in the client's own memory, free
  // to be changed. Called by every client's thread. Empty = nothing.
  std::function<void(const TraceRequest& request, uint32_t first_block, std::span<const std::span<std::byte>> payloads)>
      loaded;
};

// What the replay's payloads are called: two replays share blocks when their block sizes are equal.
NamespaceSpec ReplaySpace(uint32_t block_tokens, uint32_t bytes_per_token);

// Runs to the trace's end; `progress` may be null. Loss of nodes or the directory ends in misses and not in an error.
// Mismatches are counted and described in the report. Errors: InvalidArgument (an option), NotFound and DataLoss (no
// such trace, or a bad line of it: checked before the first request), Unavailable (a node cannot be reached at the
// start), FailedPrecondition (nodes of different clusters, or one that refuses the namespace), Internal.
absl::StatusOr<ReplayReport> RunReplay(const ReplayOptions& options, const ReplayHooks& hooks, Progress* progress);

}  // namespace stem
