#include "services/runtime/fleet_stems.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using Stem = stemcache::v1::HotStemsReply::Stem;

void Add(const Stem& one, Stem& sum) {
  const double rate = sum.requests_per_minute() + one.requests_per_minute();
  if (rate > 0) {
    sum.set_hit_fraction((sum.hit_fraction() * sum.requests_per_minute() + one.hit_fraction() * one.requests_per_minute()) / rate);
  }
  sum.set_requests_per_minute(rate);
  sum.set_requests(sum.requests() + one.requests());
  sum.set_last_asked_ago_ms(std::min(sum.last_asked_ago_ms(), one.last_asked_ago_ms()));
  if (sum.parent().empty()) sum.set_parent(one.parent());
}

}  // namespace

std::vector<FleetStem> MergeStems(const std::vector<NodeStems>& told, size_t stems_max) {
  absl::flat_hash_map<std::string, FleetStem> merged;
  for (const NodeStems& each : told) {
    for (const Stem& stem : each.reply->stems()) {
      FleetStem& into = merged[absl::StrCat(stem.namespace_fingerprint(), stem.key())];
      if (into.nodes.empty()) {
        into.stem = stem;
      } else {
        Add(stem, into.stem);
      }
      into.nodes.push_back(each.node);
    }
  }
  std::vector<FleetStem> stems;
  stems.reserve(merged.size());
  for (auto& [name, stem] : merged) stems.push_back(std::move(stem));
  std::sort(stems.begin(), stems.end(), [](const FleetStem& a, const FleetStem& b) {
    return a.stem.requests_per_minute() != b.stem.requests_per_minute() ? a.stem.requests_per_minute() > b.stem.requests_per_minute()
                                                                        : a.stem.key() < b.stem.key();
  });
  if (stems.size() > stems_max) stems.resize(stems_max);
  return stems;
}

}  // namespace stem
