#include "services/directory/operator_service.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "proto/status.h"
#include "proto/validate_operator.h"
#include "proto/wire_status.h"
#include "services/directory/explain.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

constexpr absl::Duration kSurveyMax = absl::Seconds(5);

}  // namespace

grpc::Status FleetOperatorService::Explain(grpc::ServerContext* context, const v1::ExplainRequest* request,
                                           v1::ExplainReply* reply) {
  if (const absl::Status allowed = parts_.secret.CheckToken(*context); !allowed.ok()) return ToGrpc(allowed);
  const absl::StatusOr<MatchCall> call = ValidateExplain(*request);
  if (!call.ok()) return ToGrpc(call.status());
  // An eighth of the caller's time stays for the answer.
  const absl::Time now = absl::Now();
  const absl::Duration left = std::min(absl::FromChrono(context->deadline()) - now, kSurveyMax);
  *reply = stem::Explain(parts_.sources, parts_.secret, *call, now + left * 7 / 8);
  return grpc::Status::OK;
}

grpc::Status FleetOperatorService::History(grpc::ServerContext* context, const v1::HistoryRequest* request, v1::HistoryReply* reply) {
  absl::Status status = parts_.secret.CheckToken(*context);
  if (status.ok()) status = ValidateHistory(*request);
  if (!status.ok()) return ToGrpc(status);
  absl::StatusOr<v1::HistoryReply> history = parts_.history.Read(*request, MonotonicNow(), absl::Now());
  if (history.ok()) *reply = *std::move(history);
  return ToGrpc(history.status());
}

}  // namespace stem
