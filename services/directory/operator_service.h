// The directory's gRPC face to operators (stemctl, the console). Its calls are rare and may take their time: threads of gRPC's own,
// apart from the callbacks that answer matches.
#pragma once

#include "services/directory/fleet_history.h"
#include "services/directory/match_answer.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

class FleetOperatorService final : public stemcache::v1::FleetOperator::Service {
 public:
  // All borrowed.
  struct Parts {
    const ClusterSecret& secret;  // every call shows its token
    MatchSources sources;
    FleetHistory& history;
  };
  explicit FleetOperatorService(const Parts& parts) : parts_(parts) {}

  grpc::Status Explain(grpc::ServerContext* context, const v1::ExplainRequest* request, v1::ExplainReply* reply) override;
  grpc::Status History(grpc::ServerContext* context, const v1::HistoryRequest* request, v1::HistoryReply* reply) override;

 private:
  const Parts parts_;
};

}  // namespace stem
