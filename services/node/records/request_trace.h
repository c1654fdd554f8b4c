// What became of one request, step by step: collected by whoever works on it, and told once, at its end, to all who want to know (stage
// histogram, request log, trace exporter). Always collected, so it is cheap: a step is a run of blocks, never one block, and their number is bounded.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/trace_context.h"
#include "services/node/records/metrics.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/tracing.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

enum class RequestKind { kAcquire, kPublish, kLease };  // lease: asked by another node
const char* RequestKindName(RequestKind kind);          // "acquire"

// One timed step. Times of day, as spans need them.
struct TraceStep {
  static constexpr size_t kNoParent = SIZE_MAX;

  Stage stage = Stage::kAcquire;
  size_t parent = kNoParent;  // the step that it is part of
  absl::Time begin;
  absl::Time end;
  absl::Duration busy;        // of end - begin, what was spent on it: steps whose pieces alternate overlap
  std::string peer;           // node that was asked; empty = none
  stemcache::v1::Tier tier = stemcache::v1::TIER_UNSPECIFIED;  // of the blocks; UNSPECIFIED = none or several
  uint32_t keys = 0;          // asked for, each of one part
  uint32_t blocks = 0;        // of these, that came of it
  uint64_t bytes = 0;         // of the latter
  stemcache::v1::MissCause cause = stemcache::v1::MISS_CAUSE_UNSPECIFIED;  // why blocks are missed after it
  std::string error;          // why it failed; empty = it did not
};

// A request that ended.
struct RequestFacts {
  RequestKind kind = RequestKind::kAcquire;
  const Space* space = nullptr;   // never null; outlives every request
  std::string request;            // the engine's id; may be empty
  std::string peer;               // of a lease: the node that asked
  TraceContext trace;             // of this request, under its caller's. Not valid: not traced
  uint64_t caller_span = 0;       // 0 = the trace begins here
  absl::Time began;
  absl::Time answered;            // Acquired was sent; InfinitePast = it was not, or the request is no acquire
  absl::Time ended;
  absl::Time deadline;
  uint32_t blocks_asked = 0;
  uint32_t blocks_matched = 0;    // that were got: landed, read in place, published or leased
  struct Hits {
    uint32_t blocks = 0;
    uint64_t bytes = 0;
  };
  std::array<Hits, 5> hits = {};  // by v1::Source, of an acquire
  std::vector<stemcache::v1::Miss> misses;  // of an acquire: ascending, cover blocks_matched..blocks_asked
  stemcache::v1::Difference difference;  // with a miss for INCOMPATIBLE
  BlockKey last_key;              // of the chain
  std::optional<Probe> probe;     // of the prompt, when its client told it
  std::optional<BlockKey> first_missing_key;
  std::vector<TraceStep> steps;   // in the order in which they began
  uint32_t steps_merged = 0;      // counted in with an earlier one of their stage
  std::string error;              // why it failed as a whole; empty = it did not
};

// How long the node had it: of a publish without the client's own time between Reserve and Commit.
absl::Duration TimeAtNode(const RequestFacts& facts);

// The sampled publish that came last: what the spiller then writes made room for it, and nests in its trace. Threads: any.
class LatestPublish {
 public:
  void Set(const TraceContext& trace) {
    MutexLock lock(mutex_);
    trace_ = trace;
  }
  // Once; then none is known.
  TraceContext Take() {
    MutexLock lock(mutex_);
    return std::exchange(trace_, TraceContext());
  }

 private:
  Mutex mutex_;
  TraceContext trace_ ABSL_GUARDED_BY(mutex_);
};

// Who is told. Borrowed by every request of a node; outlives them.
struct RequestSinks {
  NodeMetrics& metrics;
  Tracer& tracer;
  // Acquires and publishes alone. May be empty; must not block. Any thread.
  std::function<void(RequestFacts)> log;
};

// Threads: one at a time, as the request that it belongs to.
class RequestTrace {
 public:
  static constexpr size_t kStepsMax = 64;  // beyond it a step is counted in with the last one of its stage

  // `facts`: kind, space, request, deadline, what was asked, and as `trace` the caller's context. The request begins now.
  RequestTrace(const RequestSinks& sinks, RequestFacts facts);
  // End, if it has not ended: a client that left, a node that stops.
  ~RequestTrace();
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  // What is known so far, to add to.
  RequestFacts& facts() { return facts_; }

  // ---- Steps, by index ----
  // One that begins at `begin` and is done in pieces.
  size_t Open(Stage stage, absl::Time begin, size_t parent = TraceStep::kNoParent);
  // The last of its stage and parent, or a new one.
  size_t Continue(Stage stage, absl::Time begin, size_t parent = TraceStep::kNoParent);
  // Under which what the step asks of others nests.
  TraceContext ContextOf(size_t step) const;
  // To say what the step is about.
  TraceStep& at(size_t step) { return facts_.steps[step]; }
  // The step was busy from `begin` to `end`, and ends with its last piece.
  void AddPiece(size_t step, absl::Time begin, absl::Time end);
  void Fail(size_t step, const absl::Status& why, stemcache::v1::MissCause cause);

  // A step in one piece, from construction to destruction.
  class Timed {
   public:
    Timed(RequestTrace& trace, Stage stage, size_t parent = TraceStep::kNoParent);
    ~Timed();
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;
    TraceStep* operator->() { return &trace_.at(step_); }
    size_t step() const { return step_; }

   private:
    RequestTrace& trace_;
    const absl::Time begin_;
    const size_t step_;
  };

  // That came from there. Which blocks were hit is said at the end.
  void AddHitBytes(stemcache::v1::Source source, uint64_t bytes) { facts_.hits.at(static_cast<size_t>(source)).bytes += bytes; }

  // Tells the sinks, and gives the facts away; the request ended now, unless facts() say when. Once; later calls do nothing.
  void End();
  // Of one that ended: its trace, which is not sampled, when it was kept nevertheless, being slow or failed: those whom it asked keep theirs.
  // Else not valid.
  const TraceContext& kept_late() const { return kept_late_; }

 private:
  void Export();

  const RequestSinks& sinks_;
  RequestFacts facts_;
  bool ended_ = false;
  TraceContext kept_late_;
};

}  // namespace stem
