// The client's line to the node of its host, whichever incarnation that is: one session at a time, replaced by the next
// call after its node has gone.
#pragma once

#include <memory>
#include <string>

#include "client/counters.h"
#include "client/deadline.h"
#include "client/session.h"
#include "client/timers.h"
#include "proto/mutex.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"

namespace stem {

// Threads: any.
class Connection {
 public:
  struct Target {
    std::string path;  // of the node's gRPC socket
    v1::AttachRequest request;
    NamespaceSpec spec;
  };

  Connection(Target target, Timers& timers, std::shared_ptr<Counters> counters);
  ~Connection();

  // The living session; attaches when there is none. One attempt at a time, the others wait for it. After a failed
  // attempt nobody tries for 50 ms, then 100, up to 2 s: calls in between fail at once, as Unavailable.
  absl::StatusOr<std::shared_ptr<Session>> Get(const Deadline& deadline);
  // The living session, or null.
  std::shared_ptr<Session> Current() const;
  // OK when Get would attach now; else what it would fail with.
  absl::Status AttachAllowed() const;
  // The present session, or the last one; never null after the first Get that succeeded.
  std::shared_ptr<Session> Last() const;

  // Ends the session and every attempt; waits for their threads. Get fails from now on.
  void Close();

 private:
  absl::StatusOr<std::shared_ptr<Session>> Attempt(const Deadline& deadline);
  absl::Status SameRoot(const AttachGrant& grant) const;
  absl::Status Waiting() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Target target_;
  Timers& timers_;
  const std::shared_ptr<Counters> counters_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);
  bool attaching_ ABSL_GUARDED_BY(mutex_) = false;
  int attach_socket_ ABSL_GUARDED_BY(mutex_) = -1;            // of the attempt that runs, for Close to end it
  std::shared_ptr<Session> opening_ ABSL_GUARDED_BY(mutex_);  // the same
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // of the last attempt
  absl::Duration backoff_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  Deadline::Clock::time_point retry_at_ ABSL_GUARDED_BY(mutex_);  // meaningful after a failure
};

}  // namespace stem
