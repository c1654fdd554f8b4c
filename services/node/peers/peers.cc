#include "services/node/peers/peers.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/validate.h"
#include "proto/wire_status.h"
#include "services/runtime/tracing.h"

namespace stem {
namespace {

constexpr absl::Duration kReturnTimeout = absl::Seconds(5);  // of renewals too

PeerMemory ToPeerMemory(const v1::LeaseReply& reply) {
  PeerMemory memory{.worker_address = reply.memory().worker_address(), .regions = {}, .incarnation = reply.incarnation()};
  for (const auto& region : reply.memory().regions()) {
    memory.regions.push_back(
        {.arena = region.arena(), .base = region.base(), .bytes = region.bytes(), .rkey = region.rkey()});
  }
  return memory;
}

}  // namespace

std::shared_ptr<v1::Peer::Stub> Peers::StubFor(const std::string& node, const std::string& address,
                                               uint64_t* known_incarnation) {
  MutexLock lock(mutex_);
  Known& known = known_[node];
  if (known.stub == nullptr || known.address != address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
    known.stub =
        v1::Peer::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    known.address = address;
    known.incarnation = 0;
  }
  *known_incarnation = known.incarnation;
  return known.stub;
}

void Peers::Learn(const std::string& node, const v1::LeaseReply& reply) {
  if (!reply.has_memory()) return;
  MutexLock lock(mutex_);
  known_[node].memory = ToPeerMemory(reply);
  known_[node].incarnation = reply.incarnation();
}

absl::StatusOr<std::shared_ptr<RemotePeer>> Peers::MemoryOf(const std::string& node, const v1::LeaseReply& reply,
                                                            absl::Time deadline) {
  PeerMemory memory;
  {
    MutexLock lock(mutex_);
    const Known& known = known_[node];
    if (known.incarnation != reply.incarnation()) {
      return absl::AbortedError(absl::StrCat("node ", node, " restarted during the lease"));
    }
    memory = known.memory;
  }
  return transport_.Connect(memory, deadline);
}

absl::StatusOr<PeerLease> Peers::Lease(const v1::NodeAddress& address, std::span<const BlockName> names,
                                       const SlotGeometry& geometry, absl::Time deadline, const TraceContext& trace) {
  v1::LeaseRequest request;
  request.set_namespace_fingerprint(std::string(names.front().space.bytes()));
  std::string* const keys = request.mutable_keys();
  keys->reserve(names.size() * sizeof(BlockKey));
  for (const BlockName& name : names) {
    const absl::string_view bytes = name.key.bytes();
    keys->append(bytes.data(), bytes.size());
  }
  request.set_requester(node_);
  uint64_t known_incarnation = 0;
  const std::shared_ptr<v1::Peer::Stub> stub = StubFor(address.node(), address.peer_address(), &known_incarnation);
  request.set_known_incarnation(known_incarnation);

  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  secret_.AddToken(context);
  Tracer::Write(trace, context);
  const absl::Time sent = absl::Now();  // the reader counts from here, the owner from later
  PeerLease lease{.node = address.node()};
  STEM_TRY(FromGrpc(stub->Lease(&context, request, &lease.reply)));
  STEM_TRY(ValidateLeaseReply(lease.reply, names.size(), geometry.block_bytes_max()));
  if (lease.reply.slots().empty()) return lease;
  if (lease.reply.incarnation() != address.incarnation()) {
    Return(lease, {});
    return absl::AbortedError(absl::StrCat("node ", address.node(), " restarted; the directory named its old incarnation"));
  }
  if (SlotGeometry{lease.reply.payload_offset(), lease.reply.slot_bytes()} != geometry) {
    Return(lease, {});
    return absl::FailedPreconditionError(absl::StrCat("node ", address.node(), " has slots of ", lease.reply.slot_bytes(),
                                                      " bytes for this namespace, this node of ", geometry.slot_bytes));
  }
  lease.expiry = sent + absl::Milliseconds(lease.reply.duration_ms());
  Learn(address.node(), lease.reply);
  lease.mapped = host_peers_.MemoryOf(address, deadline);
  if (lease.mapped != nullptr && lease.mapped->Covers(lease.reply)) return lease;
  lease.mapped = nullptr;
  absl::StatusOr<std::shared_ptr<RemotePeer>> memory = MemoryOf(address.node(), lease.reply, deadline);
  if (!memory.ok()) {
    Return(lease, {});
    return memory.status();
  }
  lease.memory = *std::move(memory);
  return lease;
}

std::shared_ptr<v1::Peer::Stub> Peers::KnownStub(const std::string& node) {
  MutexLock lock(mutex_);
  const auto it = known_.find(node);
  return it == known_.end() ? nullptr : it->second.stub;
}

void Peers::Renew(const std::string& node, std::span<const uint64_t> ids,
                  std::function<void(uint64_t id, absl::Time expiry)> renewed) {
  struct Call {
    grpc::ClientContext context;
    v1::RenewRequest request;
    v1::RenewReply reply;
    std::shared_ptr<v1::Peer::Stub> stub;
  };
  auto call = std::make_shared<Call>();
  call->stub = KnownStub(node);
  if (call->stub == nullptr) return;
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + kReturnTimeout));
  secret_.AddToken(call->context);
  call->request.mutable_lease_ids()->Add(ids.begin(), ids.end());
  call->stub->async()->Renew(&call->context, &call->request, &call->reply,
                             [call, renewed = std::move(renewed), sent = absl::Now()](const grpc::Status& status) {
                               if (!status.ok() || call->reply.duration_ms() == 0) return;
                               const auto& ended = call->reply.ended();
                               for (const uint64_t id : call->request.lease_ids()) {
                                 if (std::find(ended.begin(), ended.end(), id) != ended.end()) continue;
                                 renewed(id, sent + absl::Milliseconds(call->reply.duration_ms()));
                               }
                             });
}

void Peers::Return(const PeerLease& lease, std::span<const BlockKey> corrupt, const TraceContext& keep) {
  std::shared_ptr<v1::Peer::Stub> stub = KnownStub(lease.node);
  if (stub == nullptr) return;
  // Lives until the call ends; losing it costs the peer a lease until its time is up.
  struct Call {
    grpc::ClientContext context;
    v1::ReturnRequest request;
    v1::ReturnReply reply;
    std::shared_ptr<v1::Peer::Stub> stub;
  };
  auto call = std::make_shared<Call>();
  call->stub = std::move(stub);
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + kReturnTimeout));
  secret_.AddToken(call->context);
  Tracer::Write(keep, call->context);
  call->request.set_lease_id(lease.reply.lease_id());
  call->request.set_corrupt_keys(PackKeys(corrupt));
  call->stub->async()->Return(&call->context, &call->request, &call->reply, [call](const grpc::Status&) {});
}

}  // namespace stem
