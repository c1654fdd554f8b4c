// What the nodes counted, over time: a series of the fleet and one of each node, fed by heartbeats. A node's counters begin anew with
// its incarnation; what it counted before this directory heard of it is left out. Plain: `now` is an argument, from a monotonic clock.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "services/directory/counter_series.h"
#include "stemcache/v1/directory.pb.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// Threads: any.
class FleetHistory {
 public:
  static constexpr size_t kNodesMax = 1024;    // with a series; of more, the longest silent is forgotten
  static constexpr size_t kTenantsMax = 1024;  // of the fleet
  static constexpr absl::Duration kSilentMax = absl::Seconds(5);  // then a node counts as not live

  explicit FleetHistory(absl::Time started) : started_(started) {}

  // What one announce stream feeds. Threads: one at a time.
  class Feed {
   public:
    explicit Feed(FleetHistory& history) : history_(history) {}
    // A validated message that the stream took.
    void OnMessage(const stemcache::v1::AnnounceMessage& message, absl::Time now);

   private:
    FleetHistory& history_;
    stemcache::v1::Hello hello_;
  };

  // A heartbeat of the node that said `hello`.
  void Hear(const stemcache::v1::Hello& hello, const stemcache::v1::Heartbeat& heartbeat, absl::Time now) ABSL_LOCKS_EXCLUDED(mutex_);

  // `call` is validated; `unix_now` is the time of day at `now`, a thread's wait apart: each answer places a second at the same moment, until
  // the host's clock is set. Errors: NotFound (the node).
  absl::StatusOr<stemcache::v1::HistoryReply> Read(const stemcache::v1::HistoryRequest& call, absl::Time now, absl::Time unix_now)
      ABSL_LOCKS_EXCLUDED(mutex_);

  size_t bytes() const ABSL_LOCKS_EXCLUDED(mutex_);  // of memory

 private:
  struct Node {
    Node();

    uint64_t incarnation = 0;
    absl::Time heard;
    bool live = false;
    FleetLevels levels;                   // zero while not live
    stemcache::v1::NodeCounters counted;  // by its incarnation
    stemcache::v1::NodeCounters total;    // heard here
    CounterSeries series;
  };

  Node& NodeOf(const stemcache::v1::Hello& hello, const stemcache::v1::NodeCounters& counters, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetLevels(const FleetLevels& levels, Node* node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `now`, but never before what was so already: a caller may have waited for its turn.
  absl::Time InTurn(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return latest_ = std::max(latest_, now); }
  // Silent nodes are no longer live.
  void Sweep(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Time started_;
  mutable Mutex mutex_;
  absl::flat_hash_map<std::string, std::unique_ptr<Node>> nodes_ ABSL_GUARDED_BY(mutex_);
  bool forgot_ ABSL_GUARDED_BY(mutex_) = false;  // a node, for want of room
  absl::Time latest_ ABSL_GUARDED_BY(mutex_);
  absl::Time swept_ ABSL_GUARDED_BY(mutex_);
  absl::Duration unix_ahead_ ABSL_GUARDED_BY(mutex_);  // the time of day, of the monotonic clock
  FleetLevels levels_ ABSL_GUARDED_BY(mutex_);  // of live nodes together
  stemcache::v1::NodeCounters total_ ABSL_GUARDED_BY(mutex_);
  CounterSeries series_ ABSL_GUARDED_BY(mutex_){kFleetResolutions};

  static constexpr CounterSeries::Resolution kFleetResolutions[] = {
      {absl::Seconds(1), 600}, {absl::Seconds(10), 720}, {absl::Seconds(120), 720}};
  static constexpr CounterSeries::Resolution kNodeResolutions[] = {
      {absl::Seconds(2), 300}, {absl::Seconds(30), 240}, {absl::Seconds(300), 288}};
};

}  // namespace stem
