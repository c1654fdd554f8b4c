// The node's gRPC face to other nodes: leases of what it holds.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "proto/validate.h"
#include "services/node/peers/lease_table.h"
#include "services/node/records/metrics.h"
#include "services/node/records/request_trace.h"
#include "services/node/spaces/space_table.h"
#include "services/node/tiers/promoter.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/work_queue.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {

class PeerService final : public v1::Peer::CallbackService {
 public:
  // All borrowed.
  struct Parts {
    const SpaceTable& spaces;
    LeaseTable& leases;
    Promoter& promoter;
    NodeMetrics& metrics;
    const RequestSinks& sinks;
    const ClusterSecret& secret;
  };
  struct Options {
    uint64_t incarnation = 0;
    v1::MemoryMap memory;        // of this incarnation
    absl::Duration lease;        // how long a lease lasts
    size_t threads = 2;          // that promote for leases
    size_t queue_depth_max = 256;
  };
  PeerService(Parts parts, Options options)
      : parts_(parts), options_(std::move(options)), queue_(options_.threads, options_.queue_depth_max) {}

  grpc::ServerUnaryReactor* Lease(grpc::CallbackServerContext* context, const v1::LeaseRequest* request,
                                  v1::LeaseReply* reply) override;
  grpc::ServerUnaryReactor* Return(grpc::CallbackServerContext* context, const v1::ReturnRequest* request,
                                   v1::ReturnReply* reply) override;
  grpc::ServerUnaryReactor* Renew(grpc::CallbackServerContext* context, const v1::RenewRequest* request,
                                  v1::RenewReply* reply) override;

 private:
  struct Asked {  // one Lease
    Asked(const RequestSinks& sinks, RequestFacts facts) : trace(sinks, std::move(facts)) {}

    RequestTrace trace;
    const Space* space = nullptr;
    std::vector<BlockName> names;
    std::vector<BlockPin> pins;  // of the leading names
    uint64_t known_incarnation = 0;
  };
  void Answer(Asked& asked, v1::MissCause miss, v1::LeaseReply* reply, grpc::ServerUnaryReactor* reactor);
  // Leases what is pinned; `miss`: why no more is.
  absl::Status Grant(Asked& asked, v1::MissCause miss, v1::LeaseReply* reply);
  // Pins more of the leading run, promoting from SSD; returns why the first one beyond it is not.
  v1::MissCause PinRest(Asked& asked, v1::LeaseReply* reply);

  const Parts parts_;
  const Options options_;
  WorkQueue queue_;
};

}  // namespace stem
