#include "services/node/peers/peer_service.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/wire_status.h"

namespace stem {

grpc::ServerUnaryReactor* PeerService::Lease(grpc::CallbackServerContext* context, const v1::LeaseRequest* request,
                                             v1::LeaseReply* reply) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  if (const absl::Status status = parts_.secret.CheckToken(*context); !status.ok()) {
    reactor->Finish(ToGrpc(status));
    return reactor;
  }
  absl::StatusOr<LeaseCall> call = ValidateLease(*request);
  if (!call.ok()) {
    reactor->Finish(ToGrpc(call.status()));
    return reactor;
  }
  const Space* const space = parts_.spaces.Find(call->space);
  if (space == nullptr) {
    reactor->Finish(ToGrpc(absl::NotFoundError(absl::StrCat("namespace ", call->space.ToHex(), " is not known on this node"))));
    return reactor;
  }
  auto asked = std::make_shared<Asked>(parts_.sinks, RequestFacts{.kind = RequestKind::kLease,
                                                                  .space = space,
                                                                  .peer = request->requester(),
                                                                  .trace = parts_.sinks.tracer.Read(*context),
                                                                  .deadline = absl::FromChrono(context->deadline()),
                                                                  .blocks_asked = static_cast<uint32_t>(call->keys.size()),
                                                                  .last_key = call->keys.back()});
  asked->space = space;
  asked->known_incarnation = request->known_incarnation();
  asked->names.reserve(call->keys.size());
  for (const BlockKey& key : call->keys) asked->names.push_back({call->space, key});
  asked->pins.reserve(call->keys.size());
  space->pool().PinRun(asked->names, asked->pins);
  reply->mutable_from_ssd()->Resize(static_cast<int>(asked->pins.size()), false);
  if (asked->pins.size() == asked->names.size()) {  // nothing to wait for: no queue
    Answer(*asked, v1::MISS_CAUSE_UNSPECIFIED, reply, reactor);
    return reactor;
  }
  const bool posted = queue_.TryPost([this, reactor, reply, asked] {
    const v1::MissCause miss = PinRest(*asked, reply);
    Answer(*asked, miss, reply, reactor);
  });
  if (!posted) {
    parts_.metrics.CountRefused(RefusedCall::kLease, RefusedReason::kQueueFull, request->keys().size() / sizeof(BlockKey));
    RequestFacts& facts = asked->trace.facts();
    facts.error = absl::StrCat(options_.queue_depth_max, " leases wait on this node, its limit");
    const absl::Status refused = absl::ResourceExhaustedError(facts.error);
    asked->trace.End();  // first: its caller may ask to keep it
    reactor->Finish(ToGrpc(refused));
  }
  return reactor;
}

void PeerService::Answer(Asked& asked, v1::MissCause miss, v1::LeaseReply* reply, grpc::ServerUnaryReactor* reactor) {
  const absl::Status granted = Grant(asked, miss, reply);
  asked.trace.End();  // first: its caller may ask to keep it
  reactor->Finish(ToGrpc(granted));
}

absl::Status PeerService::Grant(Asked& asked, v1::MissCause miss, v1::LeaseReply* reply) {
  std::vector<BlockPin>& pins = asked.pins;
  BlockPool& pool = asked.space->pool();
  const size_t leased = pins.size();
  pool.Touch(std::span(asked.names).first(leased), {.copied = true});
  RequestFacts& facts = asked.trace.facts();
  facts.blocks_matched = static_cast<uint32_t>(leased);
  if (leased < asked.names.size()) facts.first_missing_key = asked.names[leased].key;

  for (const BlockPin& pin : pins) {
    const BlockMeta& meta = pin.meta();
    reply->add_slots(pin.slot());
    reply->add_generations(meta.generation);
    reply->add_lengths(static_cast<uint32_t>(meta.length));
    reply->add_digests(meta.digest);
  }
  reply->set_incarnation(options_.incarnation);
  reply->set_duration_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.lease)));
  reply->set_arena(asked.space->memory->arena_id);
  reply->set_slot_bytes(pool.geometry().slot_bytes);
  reply->set_payload_offset(pool.geometry().payload_offset);
  if (asked.known_incarnation != options_.incarnation) *reply->mutable_memory() = options_.memory;
  if (leased > 0) {
    reply->set_lease_id(parts_.leases.Grant(std::move(pins), absl::Now(), options_.lease));
    if (reply->lease_id() == 0) {
      parts_.metrics.CountRefused(RefusedCall::kLease, RefusedReason::kLimit, leased);
      facts.error = "this node has granted all the leases it may";
      return absl::ResourceExhaustedError(facts.error);
    }
  }
  if (leased < asked.names.size()) {
    reply->mutable_miss()->set_first(static_cast<uint32_t>(leased));
    reply->mutable_miss()->set_count(1);
    reply->mutable_miss()->set_cause(miss);
  }
  return absl::OkStatus();
}

v1::MissCause PeerService::PinRest(Asked& asked, v1::LeaseReply* reply) {
  const auto take = [&](BlockPin pin, bool waited) {
    asked.pins.push_back(std::move(pin));
    reply->add_from_ssd(waited);
  };
  const auto rest = std::span<const BlockName>(asked.names).subspan(asked.pins.size());
  const absl::Status brought =
      parts_.promoter.BringRun(asked.space->pool(), rest, asked.trace.facts().deadline, &asked.trace, take);
  if (brought.ok()) return v1::MISS_CAUSE_UNSPECIFIED;
  if (absl::IsResourceExhausted(brought)) return v1::MISS_CAUSE_REFUSED;
  return absl::IsDataLoss(brought) ? v1::MISS_CAUSE_INTEGRITY : v1::MISS_CAUSE_EVICTED;  // or it left since the directory heard of it
}

grpc::ServerUnaryReactor* PeerService::Return(grpc::CallbackServerContext* context, const v1::ReturnRequest* request,
                                              v1::ReturnReply* /*reply*/) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = parts_.secret.CheckToken(*context);
  if (status.ok() && !request->corrupt_keys().empty()) {
    const absl::StatusOr<std::vector<BlockKey>> keys = ValidateKeys(request->corrupt_keys());
    status = keys.status();
    if (keys.ok()) {
      for (const BlockName& name : parts_.leases.NamesOf(request->lease_id(), *keys)) {
        parts_.promoter.Recheck(parts_.spaces.Find(name.space)->pool(), name, "peer");
      }
    }
  }
  if (status.ok()) {
    parts_.leases.Return(request->lease_id());
    parts_.sinks.tracer.KeepParked(parts_.sinks.tracer.Read(*context));
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* PeerService::Renew(grpc::CallbackServerContext* context, const v1::RenewRequest* request,
                                             v1::RenewReply* reply) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  absl::Status status = parts_.secret.CheckToken(*context);
  if (status.ok()) status = ValidateRenew(*request);
  if (status.ok()) {
    const absl::Time now = absl::Now();
    for (const uint64_t id : request->lease_ids()) {
      if (!parts_.leases.Renew(id, now, options_.lease)) reply->add_ended(id);
    }
    reply->set_duration_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.lease)));
  }
  reactor->Finish(ToGrpc(status));
  return reactor;
}

}  // namespace stem
