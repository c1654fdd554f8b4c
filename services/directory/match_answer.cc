#include "services/directory/match_answer.h"

#include <algorithm>
#include <memory>

#include "absl/container/inlined_vector.h"
#include "services/directory/chain_match.h"

namespace stem {

v1::MatchReply AnswerMatch(const MatchSources& sources, const MatchCall& call, absl::Time now) {
  v1::MatchReply reply;
  const std::shared_ptr<const MemberView> view = sources.membership.View(now);
  const ChainMatch match = MatchChain(sources.index, *view, call);
  reply.set_matched_blocks(match.matched_blocks);
  absl::InlinedVector<uint16_t, 8> holders;
  for (const ChainRun& run : match.runs) {
    const auto known = std::find(holders.begin(), holders.end(), run.node);
    const auto holder = static_cast<uint32_t>(known - holders.begin());
    if (known == holders.end()) {
      holders.push_back(run.node);
      *reply.add_holders() = *view->nodes[run.node].address;
    }
    v1::HolderRun* out = reply.add_runs();
    out->set_first(run.first);
    out->set_count(run.count);
    out->set_holder(holder);
    out->set_tier(static_cast<v1::Tier>(run.tier));
  }
  for (const ChainMiss& miss : match.misses) {
    v1::Miss* out = reply.add_misses();
    out->set_first(miss.first);
    out->set_count(miss.count);
    out->set_cause(miss.cause);
  }
  sources.intents.Label(call, now, reply);
  sources.prompts.Label(call, reply);
  *reply.mutable_truth() = sources.membership.Truth(now);
  return reply;
}

}  // namespace stem
