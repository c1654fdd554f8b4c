#include "storage/policy/policies.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "storage/policy/arc.h"
#include "storage/policy/leaf_first.h"
#include "storage/policy/lfu.h"
#include "storage/policy/lrfu.h"
#include "storage/policy/recency.h"
#include "storage/policy/s3fifo.h"
#include "storage/policy/sieve.h"
#include "storage/policy/slru.h"
#include "storage/policy/stem_policy.h"
#include "storage/policy/wtinylfu.h"

namespace stem {
namespace {

constexpr std::array<std::pair<PolicyKind, absl::string_view>, 10> kNames = {{
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

absl::string_view NameOf(PolicyKind kind) {
  return std::find_if(kNames.begin(), kNames.end(), [kind](const auto& entry) { return entry.first == kind; })->second;
}

absl::StatusOr<PolicyKind> ParsePolicy(absl::string_view name) {
  for (const auto& [kind, known] : kNames) {
    if (known == name) return kind;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "policy '", name, "' is unknown; use one of ",
      absl::StrJoin(kNames, ", ", [](std::string* out, const auto& entry) { out->append(entry.second.data(), entry.second.size()); })));
}

std::vector<PolicyKind> AllPolicies() {
  std::vector<PolicyKind> kinds;
  for (const auto& [kind, name] : kNames) kinds.push_back(kind);
  return kinds;
}

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
