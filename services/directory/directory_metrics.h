// The directory's Prometheus metrics, stemcache_directory_*.
#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "proto/mutex.h"
#include "services/directory/membership.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

// Threads: any.
class DirectoryMetrics {
 public:
  // Registers in `registry`, which must outlive this.
  explicit DirectoryMetrics(prometheus::Registry& registry);
  DirectoryMetrics(const DirectoryMetrics&) = delete;
  DirectoryMetrics& operator=(const DirectoryMetrics&) = delete;

  void OnMatch(const stemcache::v1::MatchReply& reply, size_t blocks_asked, absl::Duration took);
  void OnScore() { scores_.Increment(); }
  void OnChanges(uint64_t changes) { changes_.Increment(static_cast<double>(changes)); }
  // `outcome`: granted, refused (told who computes) or waited (for that to end).
  void OnIntend(const char* outcome) { intends_.Add({{"outcome", outcome}}).Increment(); }
  void OnResync() { resyncs_.Increment(); }
  void OnStreams(int change) { streams_.Increment(change); }

  // Sets the gauges; before each scrape.
  void Refresh(const PrefixIndex::Counts& counts, const std::vector<Membership::NodeStatus>& nodes);

 private:
  prometheus::Family<prometheus::Counter>& matches_;
  prometheus::Counter& exact_;
  prometheus::Counter& stale_;
  prometheus::Family<prometheus::Counter>& missed_;
  prometheus::Family<prometheus::Counter>& intends_;
  prometheus::Family<prometheus::Gauge>& nodes_;
  prometheus::Family<prometheus::Gauge>& lag_seconds_;
  prometheus::Histogram& match_seconds_;
  prometheus::Counter& asked_;
  prometheus::Counter& matched_;
  prometheus::Counter& scores_;
  prometheus::Counter& changes_;
  prometheus::Counter& resyncs_;
  prometheus::Gauge& streams_;
  prometheus::Gauge& blocks_;
  prometheus::Gauge& index_bytes_;
  prometheus::Counter& shed_;
  prometheus::Gauge& ghosts_;
  Mutex mutex_;
  std::map<std::string, prometheus::Gauge*> lag_by_node_ ABSL_GUARDED_BY(mutex_);  // so that forgotten nodes leave
};

}  // namespace stem
