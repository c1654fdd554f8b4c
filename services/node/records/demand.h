// What was asked of this node, whether it was held or not: the stems that most requests go through, and what more or less memory would
// hit.
#pragma once

#include <map>
#include <memory>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/validate.h"
#include "proto/validate_operator.h"
#include "services/node/records/acquire_outcome.h"
#include "services/node/records/hot_stems.h"
#include "services/node/spaces/space_table.h"
#include "stemcache/v1/operator.pb.h"
#include "storage/policy/sampled_hit_curve.h"

namespace stem {

struct AskedChain {
  const Space& space;
  const ChainCall& chain;
  const AcquireOutcome& outcome;
};

// Threads: any.
class Demand {
 public:
  // Borrows `spaces`. `ssd_bytes`: quota of the node's SSD tier.
  Demand(const SpaceTable& spaces, uint64_t ssd_bytes);

  // An Acquire has ended.
  void Count(const AskedChain& asked);

  v1::HotStemsReply Stems(const HotStemsCall& call);
  // From a quarter of today's DRAM to eight times as much, or to DRAM and twice the SSD; each trust group's memory grown alike.
  v1::HitCurveReply HitCurve();

 private:
  const SpaceTable& spaces_;
  const uint64_t ssd_bytes_;
  double factor_max_;  // of today's DRAM
  Mutex stems_mutex_;
  HotStems stems_ ABSL_GUARDED_BY(stems_mutex_){HotStems::Options()};
  Mutex curves_mutex_;
  std::map<const GroupMemory*, SampledHitCurve> curves_ ABSL_GUARDED_BY(curves_mutex_);  // of groups that were asked
};

}  // namespace stem
