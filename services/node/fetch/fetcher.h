// Brings the stem of an Acquire into this node's slots: pins what is here, reads the SSD, matches and leases the rest from
// peers, proves every byte that came from elsewhere, and tells the client as blocks land. Never longer than the deadline.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/directory_stub.h"
#include "proto/validate.h"
#include "services/node/fetch/bring_rates.h"
#include "services/node/fetch/copier.h"
#include "services/node/fetch/single_flight.h"
#include "services/node/peers/lent_run.h"
#include "services/node/peers/peer_reports.h"
#include "services/node/peers/peers.h"
#include "services/node/records/demand.h"
#include "services/node/records/metrics.h"
#include "services/node/records/request_trace.h"
#include "services/node/sessions/reservations.h"
#include "services/node/sessions/session.h"
#include "services/node/tiers/promoter.h"
#include "services/runtime/log.h"
#include "services/runtime/work_queue.h"
#include "storage/transport/transport.h"

namespace stem {

struct AcquireCall {
  uint64_t id = 0;  // request_id
  ChainCall chain;
  std::string request;  // the engine's id, for logs
  TraceContext trace;
  absl::Duration compute = absl::ZeroDuration();  // above zero: single flight, see v1::Acquire.compute_ms
  absl::Duration block_compute = absl::ZeroDuration();  // above zero: see v1::Acquire.block_compute_us
  Conversation conversation;
  absl::Time deadline;
};

// Threads: any.
class Fetcher {
 public:
  // What the fetcher works with; all borrowed, all outlive it.
  struct Parts {
    DirectoryStub& directories;
    Peers& peers;
    HostPeers& host_peers;
    LentRuns& lent_runs;
    Copier& copier;
    BringRates& rates;
    Promoter& promoter;
    Transport& transport;
    // Of each arena, by arena id: where reads land.
    const std::vector<std::unique_ptr<Registration>>& registrations;
    Reservations& reservations;
    SingleFlight& single_flight;
    PeerReports& peer_reports;
    const RequestSinks& sinks;
    NodeMetrics& metrics;
    Demand& demand;
    Logger& log;
  };
  Fetcher(Parts parts, size_t threads, size_t queue_depth_max);

  // Answers with Acquired, then Landed and Lost, through `session`. Local blocks are answered before this returns.
  void Start(std::shared_ptr<Session> session, AcquireCall call);

  // What a client got out of this node's slots by itself, a while ago: counted, traced and ranked as an Acquire of which every block was here.
  void Note(const Session& session, const GotChain& got, const TraceContext& trace);

  size_t queue_depth() const { return queue_.depth(); }

 private:
  void CountRefused(const Session& session, const AcquireCall& call);

  const Parts parts_;
  WorkQueue queue_;
};

}  // namespace stem
