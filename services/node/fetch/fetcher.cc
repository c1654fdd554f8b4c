#include "services/node/fetch/fetcher.h"

#include <utility>

#include "absl/time/clock.h"
#include "services/node/fetch/fetch.h"

namespace stem {

Fetcher::Fetcher(Parts parts, size_t threads, size_t queue_depth_max) : parts_(parts), queue_(threads, queue_depth_max) {}

void Fetcher::Start(std::shared_ptr<Session> session, AcquireCall call) {
  parts_.copier.NoteFetch();
  const absl::StatusOr<std::shared_ptr<AcquirePins>> pins =
      session->AddAcquire(call.id, call.chain.keys.size() * call.chain.parts.size());
  if (!pins.ok()) {
    if (absl::IsResourceExhausted(pins.status())) CountRefused(*session, call);
    v1::NodeMessage answer;
    answer.set_request_id(call.id);
    answer.set_code(static_cast<uint32_t>(pins.status().code()));
    answer.set_error(std::string(pins.status().message()));
    return session->Send(std::move(answer));
  }
  auto fetch = std::make_shared<Fetch>(parts_, queue_, std::move(session), std::move(call), *pins);
  if (fetch->PinReady()) return fetch->AnswerPinned(v1::MISS_CAUSE_UNSPECIFIED);
  if (!queue_.TryPost([fetch] { fetch->Run(); })) fetch->AnswerPinned(v1::MISS_CAUSE_REFUSED);
}

void Fetcher::Note(const Session& session, const GotChain& got, const TraceContext& trace) {
  parts_.copier.NoteFetch();
  const Space& space = session.space();
  const ChainCall& chain = got.chain;
  const auto blocks = static_cast<uint32_t>(chain.keys.size());
  AcquireOutcome outcome(blocks);
  const std::vector<uint32_t> windows = WindowBlocksOf(space.spec, chain.parts);
  std::vector<BlockName> names;
  for (uint32_t block = 0; block < blocks; ++block) {
    outcome.Hit(block, v1::SOURCE_LOCAL_DRAM);
    for (size_t part = 0; part < chain.parts.size(); ++part) {
      if (!windows.empty() && !IsNeeded(windows[part], block, blocks)) continue;
      names.push_back({space.fingerprint, PartKey(chain.keys[block], chain.parts[part])});
    }
  }
  parts_.metrics.CountLoaded(space, got.payloads_loaded);
  parts_.metrics.AddBytes(v1::BYTE_PATH_LOCAL, got.bytes_loaded);
  parts_.metrics.CountAcquire({.space = space, .outcome = outcome, .parts_asked = chain.parts.size(), .block_compute = got.block_compute});
  parts_.demand.Count({.space = space, .chain = chain, .outcome = outcome});
  space.pool().Touch(names, {.conversation = got.conversation});
  RequestTrace told(parts_.sinks, {.kind = RequestKind::kAcquire,
                                   .space = &space,
                                   .request = got.request,
                                   .trace = trace,
                                   .blocks_asked = blocks,
                                   .blocks_matched = blocks,
                                   .last_key = chain.keys.back(),
                                   .probe = chain.probe});
  RequestFacts& facts = told.facts();
  facts.hits.at(v1::SOURCE_LOCAL_DRAM) = {.blocks = blocks, .bytes = got.bytes_loaded};
  facts.began = absl::Now() - got.began_ago;
  facts.deadline = facts.began + got.deadline;
  facts.answered = facts.ended = facts.began + got.took;
}

void Fetcher::CountRefused(const Session& session, const AcquireCall& call) {
  AcquireOutcome outcome(call.chain.keys.size());
  outcome.MissRest(v1::MISS_CAUSE_REFUSED);
  parts_.metrics.CountAcquire({.space = session.space(),
                               .outcome = outcome,
                               .parts_asked = call.chain.parts.size(),
                               .block_compute = call.block_compute});
  parts_.metrics.CountRefused(RefusedCall::kAcquire, RefusedReason::kLimit, outcome.blocks());
}

}  // namespace stem
