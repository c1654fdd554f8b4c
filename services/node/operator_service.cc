#include "services/node/operator_service.h"

#include "proto/validate_operator.h"
#include "proto/wire_status.h"

namespace stem {

grpc::Status NodeOperatorService::Namespaces(grpc::ServerContext* context, const v1::NamespacesRequest* /*request*/,
                                             v1::NamespacesReply* reply) {
  const absl::Status allowed = parts_.secret.CheckToken(*context);
  if (!allowed.ok()) return ToGrpc(allowed);
  for (const Space* space : parts_.spaces.All()) {
    v1::NamespaceRegistry::Entry* const entry = reply->add_entries();
    *entry->mutable_namespace_() = ToMessage(space->spec);
    entry->set_group(space->memory->group.name);
  }
  return grpc::Status::OK;
}

grpc::Status NodeOperatorService::HotStems(grpc::ServerContext* context, const v1::HotStemsRequest* request, v1::HotStemsReply* reply) {
  if (const absl::Status allowed = parts_.secret.CheckToken(*context); !allowed.ok()) return ToGrpc(allowed);
  const absl::StatusOr<HotStemsCall> call = ValidateHotStems(*request);
  if (call.ok()) *reply = parts_.demand.Stems(*call);
  return ToGrpc(call.status());
}

grpc::Status NodeOperatorService::HitCurve(grpc::ServerContext* context, const v1::HitCurveRequest* /*request*/, v1::HitCurveReply* reply) {
  const absl::Status allowed = parts_.secret.CheckToken(*context);
  if (allowed.ok()) *reply = parts_.demand.HitCurve();
  return ToGrpc(allowed);
}

}  // namespace stem
