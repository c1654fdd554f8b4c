// Asks nodes what they remember of blocks that left them.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/validate_operator.h"
#include "services/runtime/cluster_secret.h"

namespace stem {

struct DepartureSurvey {
  std::vector<std::vector<v1::Departure>> departures;  // by key asked, as nodes answered
  std::vector<std::string> silent_nodes;               // by name: that gave no good answer in time
};

// Every node, kSurveyAtOnce at a time, until `deadline` (of the day). Those that come later get a share of the time, however silent the
// others are. `request` is valid; its keys are at least one.
inline constexpr size_t kSurveyAtOnce = 64;
DepartureSurvey SurveyDepartures(const std::vector<v1::NodeAddress>& nodes, const v1::DeparturesRequest& request,
                                 const ClusterSecret& secret, absl::Time deadline);

}  // namespace stem
