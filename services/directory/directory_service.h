// The directory's gRPC face: checks the caller, validates, asks the core, fills the reply. Nothing is decided here.
#pragma once

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "proto/mutex.h"
#include "services/directory/directory_metrics.h"
#include "services/directory/fleet_history.h"
#include "services/directory/intend_desk.h"
#include "services/directory/known_prompts.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/log.h"
#include "services/runtime/tracing.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {

// What the service borrows; all of it must outlive the server.
struct DirectoryParts {
  PrefixIndex& index;
  Membership& membership;
  IntendDesk& intents;
  KnownPrompts& prompts;
  FleetHistory& history;
  const ClusterSecret& secret;
  DirectoryMetrics& metrics;
  Tracer& tracer;
  Logger& log;
  absl::Time started;           // monotonic
};

// Match takes and gives bytes: see ReadMatch.
using DirectoryCallbacks =
    stemcache::v1::Directory::WithRawCallbackMethod_Match<stemcache::v1::Directory::CallbackService>;

class DirectoryService final : public DirectoryCallbacks {
 public:
  explicit DirectoryService(const DirectoryParts& parts) : parts_(parts) {}

  grpc::ServerBidiReactor<stemcache::v1::AnnounceMessage, stemcache::v1::AnnounceReply>* Announce(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Match(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const stemcache::v1::ScoreRequest* request,
                                  stemcache::v1::ScoreReply* reply) override;
  grpc::ServerUnaryReactor* DirectoryStatus(grpc::CallbackServerContext* context,
                                            const stemcache::v1::DirectoryStatusRequest* request,
                                            stemcache::v1::DirectoryStatusReply* reply) override;

  grpc::ServerUnaryReactor* Intend(grpc::CallbackServerContext* context, const stemcache::v1::IntendRequest* request,
                                   stemcache::v1::IntendReply* reply) override;

  // Ends all announce streams, which are otherwise open for as long as their nodes live, and all waits for others' intents.
  // Later streams are refused.
  void EndStreams();

 private:
  class AnnounceReactor;

  // Fills in `span` too, as far as it comes, when there is one.
  absl::Status DoMatch(const grpc::ByteBuffer& request, grpc::ByteBuffer& reply, Span* span) const;
  absl::Status DoScore(const stemcache::v1::ScoreRequest& request, stemcache::v1::ScoreReply& reply) const;

  // False once streams have been ended.
  bool Register(grpc::CallbackServerContext* context);
  void Unregister(grpc::CallbackServerContext* context);

  const DirectoryParts parts_;
  Mutex mutex_;
  absl::flat_hash_set<grpc::CallbackServerContext*> streams_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stem
