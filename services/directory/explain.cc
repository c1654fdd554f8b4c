#include "services/directory/explain.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "services/directory/departure_survey.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

constexpr size_t kRunsSurveyedMax = 1024;  // a chain with more holes has its first ones explained

}  // namespace

v1::ExplainReply Explain(const MatchSources& sources, const ClusterSecret& secret, const MatchCall& call, absl::Time deadline) {
  v1::MatchReply match = AnswerMatch(sources, call, MonotonicNow());
  v1::ExplainReply reply;
  reply.set_matched_blocks(match.matched_blocks());
  reply.mutable_runs()->Swap(match.mutable_runs());
  reply.mutable_holders()->Swap(match.mutable_holders());
  *reply.mutable_truth() = match.truth();
  std::vector<BlockKey> firsts;  // each part of the first block of each run
  for (const v1::Miss& miss : match.misses()) {
    v1::ExplainReply::Missing& missing = *reply.add_misses();
    *missing.mutable_miss() = miss;
    if (miss.cause() == v1::MISS_CAUSE_INCOMPATIBLE) *missing.mutable_difference() = sources.prompts.DifferenceFrom(call.space, match);
    if (static_cast<size_t>(reply.misses_size()) > kRunsSurveyedMax) continue;
    for (const WantedPart& part : call.parts) firsts.push_back(PartKey(call.keys[miss.first()], part.id));
  }
  if (firsts.empty()) return reply;
  std::vector<v1::NodeAddress> nodes;
  const std::shared_ptr<const MemberView> view = sources.membership.View(MonotonicNow());  // another thread may replace it at any time
  for (const MemberView::Node& node : view->nodes) nodes.push_back(*node.address);
  v1::DeparturesRequest request;
  request.set_namespace_fingerprint(std::string(call.space.bytes()));
  request.set_keys(PackKeys(firsts));
  DepartureSurvey survey = SurveyDepartures(nodes, request, secret, deadline);
  for (size_t i = 0; i < survey.departures.size(); ++i) {
    v1::ExplainReply::Missing& missing = *reply.mutable_misses(static_cast<int>(i / call.parts.size()));
    for (v1::Departure& departure : survey.departures[i]) *missing.add_departures() = std::move(departure);
  }
  for (v1::ExplainReply::Missing& missing : *reply.mutable_misses()) {  // the latest first, of all parts and nodes
    std::stable_sort(missing.mutable_departures()->begin(), missing.mutable_departures()->end(),
                     [](const v1::Departure& a, const v1::Departure& b) { return a.ago_ms() < b.ago_ms(); });
  }
  reply.mutable_silent_nodes()->Add(survey.silent_nodes.begin(), survey.silent_nodes.end());
  return reply;
}

}  // namespace stem
