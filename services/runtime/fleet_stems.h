// The hot stems of several nodes as one list.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "stemcache/v1/operator.pb.h"

namespace stem {

// What one node said.
struct NodeStems {
  std::string node;
  const stemcache::v1::HotStemsReply* reply = nullptr;  // borrowed
};

// A stem as several nodes saw it, and those nodes.
struct FleetStem {
  stemcache::v1::HotStemsReply::Stem stem;
  std::vector<std::string> nodes;
};

// The same stem of several nodes is one: rates and requests add up, the share of hits is weighed by the rates, as it is of late like them.
// Busiest first, at most `stems_max`.
std::vector<FleetStem> MergeStems(const std::vector<NodeStems>& told, size_t stems_max);

}  // namespace stem
