#include "storage/policy/policies.h"

#include "storage/policy/arc.h"
#include "storage/policy/leaf_first.h"
#include "storage/policy/lfu.h"
#include "storage/policy/lrfu.h"
#include "storage/policy/name_table.h"
#include "storage/policy/recency.h"
#include "storage/policy/s3fifo.h"
#include "storage/policy/sieve.h"
#include "storage/policy/slru.h"
#include "storage/policy/stem_policy.h"
#include "storage/policy/wtinylfu.h"

namespace stem {
namespace {

constexpr NameTable<PolicyKind, 10> kNames = {"policy", {
    {PolicyKind::kFifo, "fifo"},
    {PolicyKind::kLru, "lru"},
    {PolicyKind::kLfu, "lfu"},
    {PolicyKind::kLrfu, "lrfu"},
    {PolicyKind::kSlru, "slru"},
    {PolicyKind::kS3Fifo, "s3fifo"},
    {PolicyKind::kSieve, "sieve"},
    {PolicyKind::kWTinyLfu, "wtinylfu"},
    {PolicyKind::kArc, "arc"},
    {PolicyKind::kStem, "stem"},
}};

// A use counts half after the tier was filled anew four times.
constexpr double kLrfuHalfLifeCapacities = 4;

}  // namespace

absl::string_view NameOf(PolicyKind kind) { return kNames.NameOf(kind); }
absl::StatusOr<PolicyKind> ParsePolicy(absl::string_view name) { return kNames.Parse(name); }
std::vector<PolicyKind> AllPolicies() { return kNames.All(); }

std::unique_ptr<EvictionPolicy> MakePolicy(PolicyKind kind, size_t capacity_blocks) {
  switch (kind) {
    case PolicyKind::kFifo: return std::make_unique<FifoPolicy>();
    case PolicyKind::kLru: return std::make_unique<LruPolicy>();
    case PolicyKind::kLfu: return std::make_unique<LfuPolicy>(capacity_blocks);
    case PolicyKind::kLrfu:
      return std::make_unique<LrfuPolicy>(kLrfuHalfLifeCapacities * static_cast<double>(capacity_blocks));
    case PolicyKind::kSlru: return std::make_unique<SlruPolicy>(capacity_blocks);
    case PolicyKind::kS3Fifo: return std::make_unique<S3FifoPolicy>(capacity_blocks);
    case PolicyKind::kSieve: return std::make_unique<SievePolicy>();
    case PolicyKind::kWTinyLfu: return std::make_unique<WTinyLfuPolicy>(capacity_blocks);
    case PolicyKind::kArc: return std::make_unique<ArcPolicy>(capacity_blocks);
    case PolicyKind::kStem: return std::make_unique<LeafFirst>(std::make_unique<StemPolicy>(capacity_blocks));
  }
  return nullptr;
}

std::unique_ptr<EvictionPolicy> MakeLeafFirstPolicy(PolicyKind kind, size_t capacity_blocks) {
  if (kind == PolicyKind::kStem) return MakePolicy(kind, capacity_blocks);
  return std::make_unique<LeafFirst>(MakePolicy(kind, capacity_blocks));
}

}  // namespace stem
