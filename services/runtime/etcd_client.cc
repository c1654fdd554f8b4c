#include "services/runtime/etcd_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "etcd/rpc.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/check.h"
#include "proto/status.h"
#include "proto/validate.h"
#include "proto/wire_status.h"

namespace stem {
namespace {

namespace etcd = ::etcdserverpb;

constexpr int64_t kEntriesPerPage = 256;
// An endpoint that vanished breaks a watch after the sum of both. etcd ends connections that ping more often than each 5 s.
constexpr int kPingMillis = 10'000;
constexpr int kPingPatienceMillis = 3'000;
// A connection that does not stand yet is waited for so long. Waiting here is what makes it stand: gRPC polls for connections from
// inside calls, and a call that fails at once, as they do after a failed attempt, polls for nothing.
constexpr absl::Duration kConnectMax = absl::Seconds(1);

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);  // for one attempt; gRPC's own 20 s would outlast every call
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMillis);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingPatienceMillis);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit: a quiet watch carries nothing
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Whether another endpoint may do better.
bool IsEndpointsFault(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsUnknown(status);
}

EtcdChanges ChangesOf(const etcd::WatchResponse& reply) {
  EtcdChanges changes{.cluster_id = reply.header().cluster_id(),
                      .revision = reply.header().revision(),
                      .opened = reply.created(),
                      .partial = reply.fragment(),
                      .changes = {}};
  for (const mvccpb::Event& event : reply.events()) {
    EtcdChanges::Change& change = changes.changes.emplace_back();
    change.key = event.kv().key();
    change.revision = event.kv().mod_revision();
    if (event.type() == mvccpb::Event::PUT) change.value = event.kv().value();
  }
  return changes;
}

}  // namespace

struct EtcdClient::Endpoint {
  explicit Endpoint(const std::string& host_port) : address(host_port), channel(ChannelTo(host_port)) {}

  bool Connect(absl::Time deadline) {
    return channel->WaitForConnected(absl::ToChronoTime(std::min(deadline, absl::Now() + kConnectMax)));
  }

  const std::string address;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<etcd::KV::Stub> kv = etcd::KV::NewStub(channel);
  const std::unique_ptr<etcd::Lease::Stub> lease = etcd::Lease::NewStub(channel);
  const std::unique_ptr<etcd::Watch::Stub> watch = etcd::Watch::NewStub(channel);
};

// One RPC that Shutdown can end.
class EtcdClient::Call {
 public:
  explicit Call(EtcdClient& client) : client_(client) {
    context.AddMetadata("hasleader", "true");  // a member that is cut off from the others refuses instead of waiting
    MutexLock lock(client_.mutex_);
    allowed_ = !client_.shut_down_;
    if (allowed_) client_.calls_.insert(&context);
  }
  ~Call() {
    MutexLock lock(client_.mutex_);
    client_.calls_.erase(&context);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  bool allowed() const { return allowed_; }

  grpc::ClientContext context;

 private:
  EtcdClient& client_;
  bool allowed_ = false;
};

EtcdClient::EtcdClient(const std::vector<std::string>& endpoints, absl::Duration call_max) : call_max_(call_max) {
  STEM_CHECK(!endpoints.empty() && endpoints.size() <= kEtcdEndpointsMax);
  for (const std::string& address : endpoints) endpoints_.push_back(std::make_unique<Endpoint>(address));
}

EtcdClient::~EtcdClient() = default;

void EtcdClient::Shutdown() {
  MutexLock lock(mutex_);
  shut_down_ = true;
  for (grpc::ClientContext* const context : calls_) context->TryCancel();
}

absl::Status EtcdClient::Try(absl::FunctionRef<grpc::Status(Endpoint&, grpc::ClientContext&)> call) {
  const absl::Time deadline = absl::Now() + call_max_;
  const size_t first = preferred_.load();
  absl::Status last = absl::DeadlineExceededError("no time was left to ask");
  std::string asked;
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    const absl::Time now = absl::Now();
    if (now >= deadline) break;
    const size_t index = (first + i) % endpoints_.size();
    Call one(*this);
    if (!one.allowed()) return absl::CancelledError("the etcd client is shut down");
    const absl::Time until = now + (deadline - now) / static_cast<int64_t>(endpoints_.size() - i);
    one.context.set_deadline(absl::ToChronoTime(until));
    Endpoint& endpoint = *endpoints_[index];
    asked = endpoint.address;
    last = endpoint.Connect(until) ? FromGrpc(call(endpoint, one.context)) : absl::UnavailableError("cannot connect");
    if (!IsEndpointsFault(last)) {
      preferred_ = index;
      return last;
    }
  }
  preferred_ = (first + 1) % endpoints_.size();
  return absl::UnavailableError(absl::StrCat("no etcd endpoint answered; ", asked, ": ", last.message()));
}

absl::StatusOr<EtcdPicture> EtcdClient::Range(const std::string& prefix, int64_t revision) {
  etcd::RangeRequest request;
  request.set_key(prefix);
  request.set_range_end(EndOfPrefix(prefix));
  request.set_limit(kEntriesPerPage);
  request.set_revision(revision);
  EtcdPicture picture;
  while (true) {
    etcd::RangeResponse reply;
    STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
      reply.Clear();
      return endpoint.kv->Range(&context, request, &reply);
    }));
    if (request.revision() == 0) request.set_revision(reply.header().revision());
    for (mvccpb::KeyValue& each : *reply.mutable_kvs()) {
      picture.entries.push_back({.key = std::move(*each.mutable_key()),
                                 .value = std::move(*each.mutable_value()),
                                 .mod_revision = each.mod_revision()});
    }
    if (picture.entries.size() > kEtcdEntriesMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat("more than ", kEtcdEntriesMax, " keys begin with ", prefix, "; use a prefix of this cluster's own"));
    }
    if (!reply.more() || reply.kvs().empty()) {
      picture.cluster_id = reply.header().cluster_id();
      picture.revision = request.revision();
      return picture;
    }
    request.set_key(absl::StrCat(picture.entries.back().key, absl::string_view("\0", 1)));
  }
}

absl::StatusOr<std::optional<EtcdEntry>> EtcdClient::Get(const std::string& key) {
  etcd::RangeRequest request;
  request.set_key(key);
  etcd::RangeResponse reply;
  STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    reply.Clear();
    return endpoint.kv->Range(&context, request, &reply);
  }));
  if (reply.kvs().empty()) return std::nullopt;
  return EtcdEntry{.key = key, .value = reply.kvs(0).value(), .mod_revision = reply.kvs(0).mod_revision()};
}

absl::StatusOr<int64_t> EtcdClient::Put(const std::string& key, const std::string& value, int64_t lease) {
  etcd::PutRequest request;
  request.set_key(key);
  request.set_value(value);
  request.set_lease(lease);
  etcd::PutResponse reply;
  STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    reply.Clear();
    return endpoint.kv->Put(&context, request, &reply);
  }));
  return reply.header().revision();
}

absl::StatusOr<int64_t> EtcdClient::PutIf(const EtcdEntry& entry, int64_t lease) {
  etcd::TxnRequest request;
  etcd::Compare* const compare = request.add_compare();
  compare->set_result(etcd::Compare::EQUAL);
  compare->set_target(etcd::Compare::MOD);
  compare->set_key(entry.key);
  compare->set_mod_revision(entry.mod_revision);
  etcd::PutRequest* const put = request.add_success()->mutable_request_put();
  put->set_key(entry.key);
  put->set_value(entry.value);
  put->set_lease(lease);
  etcd::TxnResponse reply;
  STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    reply.Clear();
    return endpoint.kv->Txn(&context, request, &reply);
  }));
  if (!reply.succeeded()) {
    return absl::AbortedError(absl::StrCat(entry.key, " has changed since revision ", entry.mod_revision));
  }
  return reply.header().revision();
}

absl::Status EtcdClient::Delete(const std::string& key) {
  etcd::DeleteRangeRequest request;
  request.set_key(key);
  return Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    etcd::DeleteRangeResponse reply;
    return endpoint.kv->DeleteRange(&context, request, &reply);
  });
}

absl::StatusOr<EtcdLease> EtcdClient::GrantLease(absl::Duration ttl) {
  etcd::LeaseGrantRequest request;
  request.set_ttl(std::max<int64_t>(1, absl::ToInt64Seconds(absl::Ceil(ttl, absl::Seconds(1)))));
  etcd::LeaseGrantResponse reply;
  STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    reply.Clear();
    return endpoint.lease->LeaseGrant(&context, request, &reply);
  }));
  return EtcdLease{.id = reply.id(), .ttl = absl::Seconds(reply.ttl())};
}

// A stream for each renewal: once in some seconds it costs little, and it has a deadline and finds another endpoint like any call.
absl::Status EtcdClient::KeepAlive(int64_t lease) {
  etcd::LeaseKeepAliveRequest request;
  request.set_id(lease);
  int64_t ttl_seconds = 0;
  STEM_TRY(Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    const auto stream = endpoint.lease->LeaseKeepAlive(&context);
    etcd::LeaseKeepAliveResponse reply;
    const bool answered = stream->Write(request) && stream->Read(&reply);
    if (answered) {
      ttl_seconds = reply.ttl();
      context.TryCancel();  // nothing more is wanted of this stream
      (void)stream->Finish();
      return grpc::Status::OK;
    }
    const grpc::Status status = stream->Finish();
    return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended without an answer") : status;
  }));
  if (ttl_seconds > 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat("lease ", absl::Hex(lease), " is over"));
}

absl::Status EtcdClient::RevokeLease(int64_t lease) {
  etcd::LeaseRevokeRequest request;
  request.set_id(lease);
  return Try([&](Endpoint& endpoint, grpc::ClientContext& context) {
    etcd::LeaseRevokeResponse reply;
    return endpoint.lease->LeaseRevoke(&context, request, &reply);
  });
}

absl::Status EtcdClient::Watch(const std::string& prefix, int64_t revision,
                               absl::FunctionRef<bool(const EtcdChanges&)> on_changes) {
  const size_t index = preferred_.load();
  Endpoint& endpoint = *endpoints_[index];
  const absl::Status status = endpoint.Connect(absl::InfiniteFuture()) ? WatchOn(endpoint, prefix, revision, on_changes)
                                                                       : absl::UnavailableError("cannot connect");
  if (IsEndpointsFault(status)) {
    preferred_ = (index + 1) % endpoints_.size();
    return absl::UnavailableError(absl::StrCat("the watch on ", endpoint.address, " broke: ", status.message()));
  }
  return status;
}

absl::Status EtcdClient::WatchOn(Endpoint& endpoint, const std::string& prefix, int64_t revision,
                                 absl::FunctionRef<bool(const EtcdChanges&)> on_changes) {
  etcd::WatchRequest request;
  request.mutable_create_request()->set_key(prefix);
  request.mutable_create_request()->set_range_end(EndOfPrefix(prefix));
  request.mutable_create_request()->set_start_revision(revision);
  request.mutable_create_request()->set_fragment(true);
  Call call(*this);
  if (!call.allowed()) return absl::CancelledError("the etcd client is shut down");
  const auto stream = endpoint.watch->Watch(&call.context);
  absl::Status why;
  etcd::WatchResponse reply;
  for (bool alive = stream->Write(request); alive && stream->Read(&reply);) {
    if (reply.compact_revision() > 0) {
      why = absl::OutOfRangeError(absl::StrCat("revision ", revision, " is compacted; ", reply.compact_revision(), " is not"));
    } else if (reply.canceled()) {
      why = absl::UnavailableError(absl::StrCat("etcd ended the watch: ", reply.cancel_reason()));
    } else if (!on_changes(ChangesOf(reply))) {
      why = absl::CancelledError("the watcher has had enough");
    }
    alive = why.ok();
  }
  call.context.TryCancel();
  const absl::Status ended = FromGrpc(stream->Finish());
  if (!why.ok()) return why;
  return ended.ok() ? absl::UnavailableError("the stream ended") : ended;
}

std::string EndOfPrefix(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');  // etcd's word for "to the end"
  prefix.back() = static_cast<char>(prefix.back() + 1);
  return prefix;
}

}  // namespace stem
