// What was counted over time, at several resolutions, in bounded memory: finished steps are kept encoded, oldest first, and each
// resolution forgets its oldest. Steps without a word are left out. Plain: `now` is an argument.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// What is so at one moment, beside what is added up.
struct FleetLevels {
  struct Tenant {
    int64_t dram_bytes = 0;
    int64_t dram_bytes_used = 0;
  };
  int64_t nodes_live = 0;
  int64_t dram_bytes = 0;
  int64_t dram_bytes_used = 0;
  int64_t ssd_bytes = 0;
  int64_t ssd_bytes_used = 0;
  int64_t orphan_blocks = 0;
  std::map<std::string, Tenant> tenants;  // told of tenants that were counted too

  // Adds `sign` times `other`; tenants of nothing go.
  void Add(const FleetLevels& other, int64_t sign);
};

// `counters` += `more`; tenants' tokens too. orphan_blocks and tenants' memory are levels and left alone.
void AddCounters(const stemcache::v1::NodeCounters& more, stemcache::v1::NodeCounters* counters);
// What `now` has more than `before`, which counted from the same beginning; nothing where it has less.
stemcache::v1::NodeCounters CountersSince(const stemcache::v1::NodeCounters& before, const stemcache::v1::NodeCounters& now);

// Threads: one at a time.
class CounterSeries {
 public:
  struct Resolution {
    absl::Duration step;
    size_t points_max = 0;

    absl::Duration span() const { return step * static_cast<int64_t>(points_max); }
  };
  // `resolutions`: finest first; outlives the series.
  explicit CounterSeries(std::span<const Resolution> resolutions);

  // Time has come to `now`; until then `levels` were so.
  void Advance(const FleetLevels& levels, absl::Time now);
  // Adds `change` to the step of the last Advance.
  void Add(const stemcache::v1::NodeCounters& change);

  // The steps of the last `back` before `now`, which the last Advance came to; the last is still growing. The finest resolution that
  // reaches back so far, neighbours put together until they are at most `points_max`. unix_ms is `unix_now` at `now`.
  void Read(absl::Duration back, size_t points_max, const FleetLevels& levels, absl::Time now, absl::Time unix_now,
            stemcache::v1::HistoryReply* reply) const;

  size_t bytes() const;  // of memory

 private:
  struct Ring {
    std::vector<char> bytes;  // finished points, each after its length
    size_t first = 0;         // of the oldest
    size_t points = 0;
    int64_t step = -1;        // number of the growing one; -1 = none yet
    bool heard = false;
    stemcache::v1::NodeCounters change;  // of the growing one
  };

  static void Push(const stemcache::v1::HistoryReply::Point& point, size_t points_max, Ring* ring);
  static stemcache::v1::HistoryReply::Point MakePoint(const stemcache::v1::NodeCounters& change, const FleetLevels& levels,
                                                      int64_t end_ms, int64_t step_ms);

  const std::span<const Resolution> resolutions_;
  std::vector<Ring> rings_;  // by resolution
};

}  // namespace stem
