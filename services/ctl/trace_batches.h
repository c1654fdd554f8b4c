// A trace, read once for many: in batches, blocks by their number among the distinct ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/status.h"
#include "services/ctl/simulate.h"
#include "services/ctl/trace.h"

namespace stem {

// A request as the the trace holds it.
struct PreparedRequest {
  uint64_t number = 0;         // from 1
  uint64_t session = 0;        // for routing: the same over a conversation
  Conversation conversation;   // as options.hints has it
  size_t first = 0;            // its first block in the batch
  size_t count = 0;
  uint64_t tokens = 0;         // of those blocks
  bool counted = true;         // not of the warm-up
};

struct PreparedBatch {
  std::vector<PreparedRequest> requests;
  std::vector<uint32_t> blocks;      // numbers among the distinct blocks
  std::vector<uint64_t> keys;
  std::vector<uint32_t> next_use;    // references until the block comes again, as a place in the trace; only for belady
};

class TraceBatches {
 public:
  // The part of the trace that `options` (borrowed) ask for. Errors: as TraceReader::Open; InvalidArgument (hints of a trace without
  // sessions).
  static absl::StatusOr<std::unique_ptr<TraceBatches>> Open(const SimulateOptions& options);

  // False when there is no more. Fills all but next_use.
  absl::StatusOr<bool> Next(PreparedBatch* batch);

  uint32_t block_tokens() const { return trace_->block_tokens(); }
  // So far.
  uint64_t requests() const { return requests_; }
  uint64_t references() const { return references_; }
  uint64_t distinct_blocks() const { return numbers_.size(); }

 private:
  explicit TraceBatches(const SimulateOptions& options) : options_(options) {}
  absl::Status FindLastRequests();
  absl::Status Prepare(PreparedBatch* batch);

  const SimulateOptions& options_;
  std::unique_ptr<TraceReader> trace_;
  TraceRequest request_;
  absl::flat_hash_map<uint64_t, uint32_t> numbers_;  // hash id -> which distinct block
  absl::flat_hash_map<uint64_t, uint64_t> last_requests_;  // session -> its last request; only for hints of the outlook
  uint64_t requests_ = 0;
  uint64_t references_ = 0;
};

}  // namespace stem
