#include "services/node/operators/operator_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "proto/wire_status.h"
#include "services/node/spaces/remove_reason.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

uint64_t Millis(absl::Duration duration) { return static_cast<uint64_t>(absl::ToInt64Milliseconds(duration)); }

constexpr absl::Duration kFollowersWake = absl::Milliseconds(200);  // to see whether they are still there

// A call of a member: checked, done, and its answer moved into the reply.
template <typename Call, typename Act, typename Reply>
grpc::Status Answer(const ClusterSecret& secret, const grpc::ServerContext& context, const absl::StatusOr<Call>& call, Act act, Reply* reply) {
  if (const absl::Status allowed = secret.CheckToken(context); !allowed.ok()) return ToGrpc(allowed);
  if (!call.ok()) return ToGrpc(call.status());
  absl::StatusOr<Reply> done = act(*call);
  if (done.ok()) *reply = *std::move(done);
  return ToGrpc(done.status());
}

}  // namespace

grpc::Status NodeOperatorService::Requests(grpc::ServerContext* context, const v1::RequestsRequest* request,
                                           grpc::ServerWriter<v1::RequestRecord>* writer) {
  absl::Status allowed = parts_.secret.CheckToken(*context);
  if (allowed.ok()) allowed = ValidateRequests(*request);
  if (!allowed.ok()) return ToGrpc(allowed);
  const int before = followers_.fetch_add(1);
  const absl::Cleanup leave = [this] { --followers_; };
  if (before >= kFollowersMax) {
    return ToGrpc(absl::ResourceExhaustedError(absl::StrCat(kFollowersMax, " others read this node's requests, its limit")));
  }
  RequestLog::Reader reader = parts_.requests.Begin(request->slow_only(), request->request(), request->recent());
  while (!context->IsCancelled()) {
    const std::vector<v1::RequestRecord> records =
        parts_.requests.Read(&reader, request->follow() ? kFollowersWake : absl::ZeroDuration());
    for (const v1::RequestRecord& record : records) {
      if (!writer->Write(record)) return grpc::Status::OK;  // the caller hung up
    }
    if (records.empty() && (!request->follow() || parts_.requests.stopped())) break;
  }
  return grpc::Status::OK;
}

grpc::Status NodeOperatorService::Departures(grpc::ServerContext* context, const v1::DeparturesRequest* request,
                                             v1::DeparturesReply* reply) {
  const absl::Status allowed = parts_.secret.CheckToken(*context);
  return ToGrpc(allowed.ok() ? FindDepartures(*request, *reply) : allowed);
}

absl::Status NodeOperatorService::FindDepartures(const v1::DeparturesRequest& request, v1::DeparturesReply& reply) const {
  STEM_ASSIGN(const DeparturesCall call, ValidateDepartures(request));
  const absl::Time now = MonotonicNow();
  for (size_t i = 0; i < call.keys.size(); ++i) {
    const std::optional<DepartureLog::Departure> left = parts_.departures.Find({call.space, call.keys[i]}, now);
    if (!left.has_value()) continue;
    v1::DeparturesReply::Found* const found = reply.add_found();
    found->set_index(static_cast<uint32_t>(i));
    v1::Departure& departure = *found->mutable_departure();
    departure.set_node(parts_.node);
    departure.set_tier(left->from == Residence::kDram ? v1::TIER_DRAM : v1::TIER_SSD);
    departure.set_reason(ToMessage(left->reason));
    departure.set_policy(left->by);
    departure.set_ago_ms(Millis(left->ago));
    departure.set_age_ms(Millis(left->age));
  }
  const absl::Duration reaches = parts_.departures.reaches_back(now);
  if (reaches != absl::InfiniteDuration()) reply.set_reaches_back_ms(std::max<uint64_t>(Millis(reaches), 1));
  return absl::OkStatus();
}

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

grpc::Status NodeOperatorService::Drain(grpc::ServerContext* context, const v1::DrainRequest* request, v1::DrainReply* reply) {
  if (const absl::Status allowed = parts_.secret.CheckToken(*context); !allowed.ok()) return ToGrpc(allowed);
  *reply = parts_.levers.SetDrain(!request->resume());
  return grpc::Status::OK;
}

grpc::Status NodeOperatorService::Keep(grpc::ServerContext* context, const v1::KeepRequest* request, v1::KeepReply* reply) {
  return Answer(parts_.secret, *context, ValidateKeep(*request), [&](const KeepCall& call) { return parts_.levers.Keep(call); }, reply);
}

grpc::Status NodeOperatorService::Evict(grpc::ServerContext* context, const v1::EvictRequest* request, v1::EvictReply* reply) {
  return Answer(parts_.secret, *context, ValidateEvict(*request), [&](const EvictCall& call) { return parts_.levers.Evict(call); }, reply);
}

grpc::Status NodeOperatorService::SetQuota(grpc::ServerContext* context, const v1::SetQuotaRequest* request, v1::SetQuotaReply* reply) {
  return Answer(parts_.secret, *context, ValidateSetQuota(*request), [&](const SetQuotaCall& call) { return parts_.levers.SetQuota(call); },
                reply);
}

}  // namespace stem
