#include "services/node/matcher.h"

#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "proto/validate.h"
#include "proto/wire_status.h"

namespace stem {

Matcher::Matcher(const std::vector<std::string>& directories, std::string node, const ClusterSecret& secret)
    : node_(std::move(node)), secret_(secret) {
  SetDirectories(directories);
}

void Matcher::SetDirectories(const std::vector<std::string>& directories) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  // A restarted directory must be found again within its clients' patience, not gRPC's two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  std::vector<std::shared_ptr<v1::Directory::Stub>> stubs;
  for (const std::string& address : directories) {
    stubs.push_back(v1::Directory::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments)));
  }
  MutexLock lock(mutex_);
  stubs_.swap(stubs);
}

absl::StatusOr<v1::MatchReply> Matcher::Match(const NamespaceFingerprint& space, std::span<const BlockKey> keys,
                                              std::span<const uint32_t> parts, absl::Time deadline) const {
  v1::MatchRequest request;
  request.set_namespace_fingerprint(std::string(space.bytes()));
  request.set_keys(PackKeys(keys));
  request.mutable_parts()->Assign(parts.begin(), parts.end());
  request.set_requester(node_);
  std::vector<std::shared_ptr<v1::Directory::Stub>> stubs;
  {
    MutexLock lock(mutex_);
    stubs = stubs_;
  }
  absl::Status last = absl::UnavailableError("no directory is configured");
  for (size_t i = 0; i < stubs.size(); ++i) {
    const absl::Time now = absl::Now();
    if (now >= deadline) break;
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(now + (deadline - now) / static_cast<int64_t>(stubs.size() - i)));
    secret_.AddToken(context);
    v1::MatchReply reply;
    last = FromGrpc(stubs[i]->Match(&context, request, &reply));
    if (last.ok()) last = ValidateMatchReply(reply, keys.size());
    if (last.ok()) return reply;
  }
  return absl::UnavailableError(last.message());
}

}  // namespace stem
