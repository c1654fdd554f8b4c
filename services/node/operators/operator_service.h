// The node's gRPC face to operators (stemctl, the console): what became of requests, what left, what more room would pay, and levers.
// Its calls are rare and may take their time: threads of gRPC's own, apart from the callbacks that serve blocks.
#pragma once

#include <atomic>
#include <string>

#include "proto/validate_operator.h"
#include "services/node/operators/levers.h"
#include "services/node/records/demand.h"
#include "services/node/records/departure_log.h"
#include "services/node/records/request_log.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

class NodeOperatorService final : public v1::NodeOperator::Service {
 public:
  // All borrowed.
  struct Parts {
    const ClusterSecret& secret;  // every call shows its token
    std::string node;             // its name
    const SpaceTable& spaces;
    const DepartureLog& departures;
    const RequestLog& requests;
    Demand& demand;
    Levers& levers;
  };
  explicit NodeOperatorService(const Parts& parts) : parts_(parts) {}

  static constexpr int kFollowersMax = 16;  // each holds a thread

  grpc::Status Requests(grpc::ServerContext* context, const v1::RequestsRequest* request,
                        grpc::ServerWriter<v1::RequestRecord>* writer) override;
  grpc::Status Departures(grpc::ServerContext* context, const v1::DeparturesRequest* request, v1::DeparturesReply* reply) override;
  grpc::Status Namespaces(grpc::ServerContext* context, const v1::NamespacesRequest* request, v1::NamespacesReply* reply) override;
  grpc::Status HotStems(grpc::ServerContext* context, const v1::HotStemsRequest* request, v1::HotStemsReply* reply) override;
  grpc::Status HitCurve(grpc::ServerContext* context, const v1::HitCurveRequest* request, v1::HitCurveReply* reply) override;
  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainRequest* request, v1::DrainReply* reply) override;
  grpc::Status Keep(grpc::ServerContext* context, const v1::KeepRequest* request, v1::KeepReply* reply) override;
  grpc::Status Evict(grpc::ServerContext* context, const v1::EvictRequest* request, v1::EvictReply* reply) override;
  grpc::Status SetQuota(grpc::ServerContext* context, const v1::SetQuotaRequest* request, v1::SetQuotaReply* reply) override;

 private:
  absl::Status FindDepartures(const v1::DeparturesRequest& request, v1::DeparturesReply& reply) const;

  const Parts parts_;
  std::atomic<int> followers_{0};
};

}  // namespace stem
