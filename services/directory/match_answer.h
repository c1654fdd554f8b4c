// The answer to a match: who holds the stem, and why the rest is missing, with what intents and probes add to that.
#pragma once

#include "absl/time/time.h"
#include "services/directory/intend_desk.h"
#include "services/directory/known_prompts.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"

namespace stem {

// What is asked. Borrowed.
struct MatchSources {
  const PrefixIndex& index;
  const Membership& membership;
  const IntendDesk& intents;
  const KnownPrompts& prompts;
};

// Threads: any.
v1::MatchReply AnswerMatch(const MatchSources& sources, const MatchCall& call, absl::Time now);

}  // namespace stem
