#include "services/node/fetch/fetcher.h"

#include <utility>

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
