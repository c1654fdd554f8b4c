#include "services/directory/departure_survey.h"

#include <algorithm>
#include <memory>

#include "absl/time/clock.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {
namespace {

struct Call {
  const v1::NodeAddress* node = nullptr;
  std::unique_ptr<v1::NodeOperator::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::DeparturesReply>> reader;
  v1::DeparturesReply reply;
  grpc::Status status;
};

}  // namespace

DepartureSurvey SurveyDepartures(const std::vector<v1::NodeAddress>& nodes, const v1::DeparturesRequest& request,
                                 const ClusterSecret& secret, absl::Time deadline) {
  const size_t keys = request.keys().size() / sizeof(BlockKey);
  DepartureSurvey survey{.departures = std::vector<std::vector<v1::Departure>>(keys), .silent_nodes = {}};
  grpc::CompletionQueue queue;
  size_t started = 0, running = 0;
  const auto start = [&] {
    auto* const call = new Call;  // the queue gives it back
    call->node = &nodes[started];
    const size_t waves = (nodes.size() - started + kSurveyAtOnce - 1) / kSurveyAtOnce;
    const absl::Time now = absl::Now();
    call->context.set_deadline(absl::ToChronoTime(now + (deadline - now) / static_cast<int64_t>(waves)));
    secret.AddToken(call->context);
    call->stub = v1::NodeOperator::NewStub(grpc::CreateChannel(call->node->peer_address(), grpc::InsecureChannelCredentials()));
    call->reader = call->stub->AsyncDepartures(&call->context, request, &queue);
    call->reader->Finish(&call->reply, &call->status, call);
    ++started;
    ++running;
  };
  while (started < nodes.size() && running < kSurveyAtOnce) start();
  while (running > 0) {
    void* tag = nullptr;
    bool ok = false;
    if (!queue.Next(&tag, &ok)) break;
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    --running;
    if (call->status.ok() && ValidateDeparturesReply(call->reply, keys).ok()) {
      for (auto& found : *call->reply.mutable_found()) survey.departures[found.index()].push_back(std::move(*found.mutable_departure()));
    } else {
      survey.silent_nodes.push_back(call->node->node());
    }
    if (started < nodes.size()) start();
  }
  std::sort(survey.silent_nodes.begin(), survey.silent_nodes.end());
  return survey;
}

}  // namespace stem
