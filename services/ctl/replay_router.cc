#include "services/ctl/replay_router.h"

#include <algorithm>
#include <limits>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "services/runtime/log.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

}  // namespace

uint64_t SessionOf(const TraceRequest& request) {
  uint64_t session = request.session.value_or(request.hash_ids[0]);
  if (!request.session && request.hash_ids.size() > 1) session = session * 0x9E3779B97F4A7C15ULL + request.hash_ids[1];
  session *= 0xD6E8FEB86659FD93ULL;  // neighbouring ids must not go to nodes in turn
  return session >> 32;
}

absl::StatusOr<std::unique_ptr<ReplayRouter>> ReplayRouter::Create(const ReplayOptions& options,
                                                                   std::vector<std::string> nodes,
                                                                   const NamespaceFingerprint& space) {
  auto router = std::unique_ptr<ReplayRouter>(new ReplayRouter(options.routing, std::move(nodes), space));
  if (options.routing == Routing::kBestMatch) {
    Logger log({.process = "stemctl"});
    STEM_ASSIGN(ClusterSecret secret, ClusterSecret::Read(options.secret_file, log));
    router->secret_ = std::make_unique<ClusterSecret>(std::move(secret));
    router->directory_ =
        v1::Directory::NewStub(grpc::CreateChannel(options.directory, grpc::InsecureChannelCredentials()));
  }
  return router;
}

size_t ReplayRouter::NodeFor(uint64_t index, const TraceRequest& request, std::span<const BlockKey> keys,
                             absl::Time deadline) {
  const size_t in_turn = index % nodes_.size();
  switch (routing_) {
    case Routing::kRoundRobin: return in_turn;
    case Routing::kSession: return SessionOf(request) % nodes_.size();
    case Routing::kBestMatch: return BestMatch(in_turn, keys, deadline);
  }
  return in_turn;
}

size_t ReplayRouter::BestMatch(size_t otherwise, std::span<const BlockKey> keys, absl::Time deadline) {
  v1::ScoreRequest request;
  request.set_namespace_fingerprint(std::string(space_.bytes()));
  request.set_keys(PackKeys(keys));
  for (const std::string& node : nodes_) request.add_candidates(node);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  secret_->AddToken(context);
  v1::ScoreReply reply;
  if (!directory_->Score(&context, request, &reply).ok()) return otherwise;
  // Ties go to the node whose turn it is, or the first would get every new conversation.
  size_t best = otherwise;
  uint32_t most = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const size_t node = (otherwise + i) % nodes_.size();
    const auto scored = std::find_if(reply.nodes().begin(), reply.nodes().end(),
                                     [&](const v1::ScoreReply::Node& entry) { return entry.node() == nodes_[node]; });
    if (scored == reply.nodes().end() || scored->matched_blocks() <= most) continue;
    most = scored->matched_blocks();
    best = node;
  }
  return best;
}

}  // namespace stem
