// The directory's Prometheus metrics, stemcache_directory_*.
#pragma once

#include <atomic>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/directory/membership.h"
#include "services/runtime/metrics_page.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

// Threads: any. Counting takes no lock.
class DirectoryMetrics {
 public:
  DirectoryMetrics();
  DirectoryMetrics(const DirectoryMetrics&) = delete;
  DirectoryMetrics& operator=(const DirectoryMetrics&) = delete;

  void OnMatch(const stemcache::v1::MatchReply& reply, size_t blocks_asked, absl::Duration took);
  void OnScore() { scores_.fetch_add(1, std::memory_order_relaxed); }
  void OnChanges(uint64_t changes) { changes_.fetch_add(changes, std::memory_order_relaxed); }
  // `outcome`: granted, refused (told who computes) or waited (for that to end).
  void OnIntend(absl::string_view outcome);
  void OnResync() { resyncs_.fetch_add(1, std::memory_order_relaxed); }
  void OnStreams(int change) { streams_.fetch_add(change, std::memory_order_relaxed); }

  void Fill(MetricsPage& page, const PrefixIndex::Counts& counts, const std::vector<Membership::NodeStatus>& nodes) const;

 private:
  void FillNodes(MetricsPage& page, const std::vector<Membership::NodeStatus>& nodes) const;

  CounterSet matches_;  // by how sure
  CounterSet missed_;   // by v1::MissCause
  CounterSet intends_;
  DurationHistogram match_seconds_;
  std::atomic<uint64_t> asked_{0};
  std::atomic<uint64_t> matched_{0};
  std::atomic<uint64_t> scores_{0};
  std::atomic<uint64_t> changes_{0};
  std::atomic<uint64_t> resyncs_{0};
  std::atomic<int64_t> streams_{0};
};

}  // namespace stem
