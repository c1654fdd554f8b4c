// The node's gRPC face to its clients: thin handlers that check, call the core and answer.
#pragma once

#include <functional>

#include "services/node/fetch/fetcher.h"
#include "services/node/publisher.h"
#include "services/node/sessions/session.h"
#include "services/node/tiers/promoter.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/tracing.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {

class NodeService final : public v1::Node::CallbackService {
 public:
  // All borrowed.
  struct Parts {
    SessionTable& sessions;
    Fetcher& fetcher;
    Publisher& publisher;
    Promoter& promoter;
    Tracer& tracer;
    NodeMetrics& metrics;
    const ClusterSecret& secret;
    std::function<v1::NodeStatusReply()> status;
  };
  explicit NodeService(Parts parts) : parts_(std::move(parts)) {}

  grpc::ServerBidiReactor<v1::ClientMessage, v1::NodeMessage>* Session(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* NodeStatus(grpc::CallbackServerContext* context, const v1::NodeStatusRequest* request,
                                       v1::NodeStatusReply* reply) override;

 private:
  class Stream;

  // Acts on one message of an open session. An error is the answer to that message.
  absl::Status Handle(const std::shared_ptr<stem::Session>& session, const v1::ClientMessage& message);
  void Release(stem::Session& session, const v1::Release& release);
  // That a client's copies of an Acquire's blocks failed their proof is always worth a span.
  void TraceCorrupt(const TraceContext& acquire, size_t blocks);

  const Parts parts_;
};

}  // namespace stem
