// The node's gRPC face to operators (stemctl, the console): what became of requests, what left, what more room would pay, and levers.
// Its calls are rare and may take their time: threads of gRPC's own, apart from the callbacks that serve blocks.
#pragma once

#include "services/node/demand.h"
#include "services/node/space_table.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

class NodeOperatorService final : public v1::NodeOperator::Service {
 public:
  // All borrowed.
  struct Parts {
    const ClusterSecret& secret;  // every call shows its token
    const SpaceTable& spaces;
    Demand& demand;
  };
  explicit NodeOperatorService(const Parts& parts) : parts_(parts) {}

  grpc::Status Namespaces(grpc::ServerContext* context, const v1::NamespacesRequest* request, v1::NamespacesReply* reply) override;
  grpc::Status HotStems(grpc::ServerContext* context, const v1::HotStemsRequest* request, v1::HotStemsReply* reply) override;
  grpc::Status HitCurve(grpc::ServerContext* context, const v1::HitCurveRequest* request, v1::HitCurveReply* reply) override;

 private:
  const Parts parts_;
};

}  // namespace stem
