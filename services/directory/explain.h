// Why blocks of a chain are missing: the match's own causes, with what the nodes remember of the first block of each run.
#pragma once

#include "absl/time/time.h"
#include "services/directory/match_answer.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// `deadline`, of the day: when the nodes' answers are waited for no longer. Threads: any.
v1::ExplainReply Explain(const MatchSources& sources, const ClusterSecret& secret, const MatchCall& call, absl::Time deadline);

}  // namespace stem
