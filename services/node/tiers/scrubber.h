// Proves what lies in memory again and again, slowly: readers of this node's own clients may trust header and pin alone, and memory can rot.
#pragma once

#include <cstddef>
#include <vector>

#include "absl/time/time.h"
#include "services/node/records/metrics.h"
#include "services/node/spaces/space_table.h"
#include "services/node/tiers/promoter.h"
#include "storage/policy/eviction.h"

namespace stem {

// Threads: one.
class Scrubber {
 public:
  static constexpr absl::Duration kTick = absl::Milliseconds(100);

  // Every block is proved about once in `period`; zero = never. Borrows the rest.
  Scrubber(absl::Duration period, const SpaceTable& spaces, Promoter& promoter, NodeMetrics& metrics)
      : period_(period), spaces_(spaces), promoter_(promoter), metrics_(metrics) {}

  // Proves what is due at `now`, of a pause no more than a moment's; what fails is quarantined. To be called every kTick.
  void Step(absl::Time now);

 private:
  // One block, or a look at a few thousand entries that hold none: then false.
  bool ProveNext(const std::vector<BlockPool*>& pools);

  const absl::Duration period_;
  const SpaceTable& spaces_;
  Promoter& promoter_;
  NodeMetrics& metrics_;
  absl::Time last_ = absl::InfinitePast();
  double due_ = 0;       // blocks
  size_t pool_ = 0;      // index of the pool that is being gone through
  BlockId next_ = 0;     // in it
};

}  // namespace stem
