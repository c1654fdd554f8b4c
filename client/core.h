// The parts of a client behind its interface: the connection, the threads, and how each call starts.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "client/cache_client.h"
#include "client/connection.h"
#include "client/counters.h"
#include "client/deadline.h"
#include "client/executor.h"
#include "client/load.h"
#include "client/reservation_state.h"
#include "client/session.h"
#include "client/timers.h"
#include "proto/status.h"

namespace stem {

class GetCall;

// Threads: any.
class CacheClient::Core {
 public:
  Core(Options options, Connection::Target target);
  // Ends everything that may call back.
  ~Core();

  using OnSession = std::function<void(absl::StatusOr<std::shared_ptr<Session>>)>;

  struct Limit {
    Deadline deadline;
    bool timed = false;  // expires by itself; else the caller waits and calls Session::Expire
  };

  // Each starts one call on a living session and returns its id; `done` runs unless there is an error.
  absl::StatusOr<uint64_t> StartAcquire(const std::shared_ptr<Session>& session, v1::ClientMessage message, Limit limit,
                                        OnAcquired done);
  absl::StatusOr<uint64_t> StartReserve(const std::shared_ptr<Session>& session, v1::ClientMessage message, Limit limit,
                                        OnReserved done);
  absl::StatusOr<uint64_t> StartCommit(const std::shared_ptr<Session>& session, std::shared_ptr<ReservationState> state,
                                       Limit limit, OnCommitted done);

  absl::StatusOr<v1::ClientMessage> AcquireMessage(std::span<const BlockKey> keys, const AcquireOptions& options) const;
  // The Acquire of a Get. Errors, also: InvalidArgument (not one destination per position).
  absl::StatusOr<v1::ClientMessage> GetMessage(std::span<const BlockKey> keys, const AcquireOptions& options,
                                               std::span<const std::span<std::byte>> destinations) const;
  absl::StatusOr<v1::ClientMessage> ReserveMessage(std::span<const BlockKey> keys, const ReserveOptions& options) const;

  // The living session that made a reservation. Errors: InvalidArgument (`state` is null), Unavailable.
  absl::StatusOr<std::shared_ptr<Session>> SessionOf(const ReservationState* state) const;

  // Gives `go` a session: at once when one lives, else from the executor, which attaches.
  void WithSession(const Deadline& deadline, OnSession go);

  std::shared_ptr<GetCall> NewGet(const std::shared_ptr<Session>& session, v1::ClientMessage message,
                                  std::span<const std::span<std::byte>> destinations, const Deadline& deadline) const;
  void StartGet(const std::shared_ptr<GetCall>& call, const Deadline& deadline, OnGot done);

  // A load in this thread, which others help.
  LoadResult LoadNow(const std::shared_ptr<StemState>& stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
                     const Deadline& deadline);
  void StartLoad(Loader loader, const Deadline& deadline, OnLoaded done);

  const Options& options() const { return options_; }
  Connection& connection() { return connection_; }
  Executor& executor() { return executor_; }
  const Counters& counters() const { return *counters_; }

 private:
  const Options options_;
  const std::shared_ptr<Counters> counters_;
  std::atomic<uint32_t> loads_ = 0;
  std::atomic<bool> attach_posted_ = false;
  Timers timers_;
  Executor executor_;
  Connection connection_;
};

}  // namespace stem
