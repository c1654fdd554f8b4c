// What the node counts, as Prometheus sees it. Counters are bumped where things happen; gauges are read from their owners
// just before a scrape (Node::RefreshGauges). Names: stemcache_node_*; base units; labels are bounded.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

// The ways on which payload bytes move.
enum class BytePath { kLocal, kSameHost, kRemoteRead, kSsdRead, kSsdWrite, kPublish };
// Steps of a request, as architecture words.
enum class Stage { kAcquire, kMatch, kLease, kRead, kPromote, kProve, kReserve, kCommit, kSpill, kAwait };

// Threads: any.
class NodeMetrics {
 public:
  explicit NodeMetrics(prometheus::Registry& registry);

  void CountAsked(uint64_t blocks);
  void CountHits(stemcache::v1::Source source, uint64_t blocks);
  void CountMisses(stemcache::v1::MissCause cause, uint64_t blocks);
  void AddBytes(BytePath path, uint64_t bytes);
  void Observe(Stage stage, absl::Duration time);
  // `tier`: where the bad copy was: dram, ssd, remote (a peer's), or the reader (client, peer) whose copy alone was bad.
  void CountIntegrityFailure(absl::string_view tier);
  // `outcome` of blocks that were to be copied out of a host peer's memory: copied, failed, or put_off until
  // the chain goes on here, as too much waited.
  void CountCopies(absl::string_view outcome, uint64_t blocks);
  void CountScrubbed(uint64_t blocks);
  // `what`: acquire, reserve, commit, lease; `blocks` that were refused.
  void CountRefused(absl::string_view what, uint64_t blocks);
  // `outcome` of an acquire that would compute: ours, waited (somebody else's ended), too_long or unanswered.
  void CountSingleFlight(absl::string_view outcome);
  void CountExpired(absl::string_view what, uint64_t count);
  void SetGauge(const std::string& name, const std::string& help, const std::map<std::string, std::string>& labels,
                double value);

  uint64_t integrity_failures() const { return integrity_failures_.load(); }

 private:
  prometheus::Registry& registry_;
  prometheus::Counter& asked_;
  std::array<prometheus::Counter*, 5> hits_ = {};     // by v1::Source
  std::array<prometheus::Counter*, 14> misses_ = {};  // by v1::MissCause
  std::array<prometheus::Counter*, 6> bytes_ = {};    // by BytePath
  std::array<prometheus::Histogram*, 10> stages_ = {};  // by Stage
  prometheus::Family<prometheus::Counter>& integrity_;
  std::atomic<uint64_t> integrity_failures_{0};
  prometheus::Family<prometheus::Counter>& refused_;
  prometheus::Family<prometheus::Counter>& expired_;
  prometheus::Counter& scrubbed_;
  prometheus::Family<prometheus::Counter>& copies_;
  prometheus::Family<prometheus::Counter>& single_flight_;
};

// Observes a stage from construction to destruction.
class StageTimer {
 public:
  StageTimer(NodeMetrics& metrics, Stage stage);
  ~StageTimer();
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  NodeMetrics& metrics_;
  const Stage stage_;
  const absl::Time start_;
};

}  // namespace stem
