// Intents over gRPC: answers those that wait without holding a thread, feeds announcements to the core, and says `not_yet` in
// matches.
#pragma once

#include <string>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/mutex.h"
#include "proto/validate.h"
#include "services/directory/directory_metrics.h"
#include "services/directory/intents.h"

namespace stem {

// Threads: any. One thread of its own, which ends what is past its time.
class IntendDesk {
 public:
  // `metrics` is borrowed.
  explicit IntendDesk(DirectoryMetrics& metrics);
  // After the server.
  ~IntendDesk();
  IntendDesk(const IntendDesk&) = delete;
  IntendDesk& operator=(const IntendDesk&) = delete;

  // The caller has been checked.
  grpc::ServerUnaryReactor* Intend(grpc::CallbackServerContext* context, const v1::IntendRequest& request,
                                   v1::IntendReply* reply);

  // Misses of `reply` that somebody computes become NOT_YET with an estimate. Free while nobody does.
  void Label(const MatchCall& call, absl::Time now, v1::MatchReply& reply) const;

  // Answers everyone who waits, so that the server can stop.
  void End() { intents_.EndAll(); }

  // What one announce stream says, after the index has taken it in. Threads: one at a time.
  class Feed {
   public:
    explicit Feed(IntendDesk& desk) : intents_(desk.intents_) {}
    void OnMessage(const v1::AnnounceMessage& message);
    void OnClosed(const std::string& node) {
      if (intents_.live()) intents_.OnGone(node);
    }

   private:
    template <typename Changes>
    void Learn(const Changes& changes);

    Intents& intents_;
    absl::flat_hash_map<uint32_t, NamespaceFingerprint> spaces_;  // bounded by the stream's own checks
  };

 private:
  class Reactor;

  void Keep();

  DirectoryMetrics& metrics_;
  Intents intents_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;  // intents and waits begun
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread keeper_;
};

}  // namespace stem
