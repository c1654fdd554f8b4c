// The node's gRPC face to operators (stemctl, the console): what became of requests, what left, what more room would pay, and levers.
// Its calls are rare and may take their time: threads of gRPC's own, apart from the callbacks that serve blocks.
#pragma once

#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

class NodeOperatorService final : public v1::NodeOperator::Service {
 public:
  // All borrowed.
  struct Parts {
    const ClusterSecret& secret;  // every call shows its token
  };
  explicit NodeOperatorService(const Parts& parts) : parts_(parts) {}

 private:
  const Parts parts_;
};

}  // namespace stem
