// Takes in what clients publish: says which blocks are wanted, and copies committed ones from staging into the pool.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "proto/validate.h"
#include "services/node/fetch/copier.h"
#include "services/node/records/metrics.h"
#include "services/node/records/published_prompts.h"
#include "services/node/sessions/drain.h"
#include "services/node/sessions/reservations.h"
#include "services/node/sessions/session.h"
#include "services/runtime/work_queue.h"

namespace stem {

// Threads: any.
class Publisher {
 public:
  // All borrowed.
  struct Parts {
    Reservations& reservations;
    Copier& copier;
    const Drain& drain;
    NodeMetrics& metrics;
    const RequestSinks& sinks;
    LatestPublish& latest;
    PublishedPrompts& prompts;
  };
  // `reservation_max`: how long a client may take from Reserve to Commit.
  Publisher(const Parts& parts, absl::Duration reservation_max, size_t threads, size_t queue_depth_max)
      : parts_(parts), reservation_max_(reservation_max), queue_(threads, queue_depth_max) {}

  // Answers with Reserved through `session`: at once, or after a copy of what the chain goes on from, where the client read that in a host
  // peer's memory.
  void Reserve(std::shared_ptr<Session> session, uint64_t id, ReserveCall call, const TraceContext& trace, absl::Time deadline);

  // Answers with Committed through `session`, after the copies. `commit` is validated.
  void Commit(std::shared_ptr<Session> session, uint64_t id, const v1::Commit& commit, absl::Time deadline);

  void Abandon(Session& session, uint64_t reserve_id);

  size_t queue_depth() const { return queue_.depth(); }

 private:
  struct Publish {  // until its reservation is decided
    ReserveCall call;
    std::unique_ptr<RequestTrace> trace;
    size_t step = 0;  // reserve
  };
  void AnswerReserve(Session& session, uint64_t id, Publish& publish);
  // Errors as of Session::AddReservation.
  absl::StatusOr<v1::Reserved> Decide(Session& session, uint64_t id, Publish& publish);
  v1::Committed Copy(Session& session, const ReservedChain& chain, const v1::Commit& commit, absl::Time deadline);

  const Parts parts_;
  const absl::Duration reservation_max_;
  WorkQueue queue_;
};

}  // namespace stem
