#include "services/directory/operator_service.h"

#include "absl/time/clock.h"
#include "proto/status.h"
#include "proto/validate_operator.h"
#include "proto/wire_status.h"
#include "services/runtime/clock.h"

namespace stem {

grpc::Status FleetOperatorService::History(grpc::ServerContext* context, const v1::HistoryRequest* request, v1::HistoryReply* reply) {
  absl::Status status = parts_.secret.CheckToken(*context);
  if (status.ok()) status = ValidateHistory(*request);
  if (!status.ok()) return ToGrpc(status);
  absl::StatusOr<v1::HistoryReply> history = parts_.history.Read(*request, MonotonicNow(), absl::Now());
  if (history.ok()) *reply = *std::move(history);
  return ToGrpc(history.status());
}

}  // namespace stem
