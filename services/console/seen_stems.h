// The stems of several nodes as one list.
#pragma once

#include <string>
#include <vector>

#include "services/console/fleet_questions.h"

namespace stem {

// A stem as several nodes saw it, and those nodes.
struct SeenStem {
  stemcache::v1::HotStemsReply::Stem stem;
  std::vector<std::string> nodes;
};

// The same stem of several nodes is one: rates and requests add up, the share of hits is weighed by requests. Busiest first, at most `most`.
std::vector<SeenStem> MergeStems(const FleetQuestions::NodeAnswers<stemcache::v1::HotStemsReply>& answers, size_t most);

}  // namespace stem
