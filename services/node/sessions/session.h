// One attached client process: who it is, its staging, what it has pinned and reserved. Everything it holds ends with it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/validate.h"
#include "services/node/peers/lent_run.h"
#include "services/node/records/request_trace.h"
#include "services/node/sessions/reservations.h"
#include "services/node/spaces/space_table.h"

namespace stem {

inline constexpr size_t kSessionsMax = 1024;       // on one node
inline constexpr size_t kSessionCallsMax = 4096;   // acquires and reservations that one session may have open

// Where a session's answers go. Send is called from any thread, in order, until the session is closed.
using SendToClient = std::function<void(v1::NodeMessage)>;

// What one Acquire holds: pins of this node's slots, and leases of those that its client reads in a host peer's memory. Blocks may
// land after it was released: they are dropped at once.
class AcquirePins {
 public:
  explicit AcquirePins(size_t positions) : positions_(positions), began_(absl::Now()), pins_(positions) {}

  size_t positions() const { return positions_; }
  absl::Time began() const { return began_; }

  // False when released meanwhile.
  bool Put(uint32_t position, BlockPin pin);
  // Those of the first positions; nothing has been put before.
  void PutLeading(std::vector<BlockPin> pins);
  // `run` serves the positions from `first` on. False when released meanwhile.
  bool Hold(uint32_t first, std::shared_ptr<LentRun> run);
  bool released() const;
  // Of the Acquire: in which what its client says afterwards is told.
  void SetTrace(const TraceContext& trace);
  TraceContext trace() const;
  // The client's copies of `positions` failed their proof. Returns the names of those that are pinned; lent ones are marked.
  std::vector<BlockName> MarkCorrupt(const google::protobuf::RepeatedField<uint32_t>& positions);
  void Release();

 private:
  const size_t positions_;
  const absl::Time began_;
  mutable Mutex mutex_;
  struct Lent {
    uint32_t first = 0;  // position
    std::shared_ptr<LentRun> run;
  };
  std::vector<BlockPin> pins_ ABSL_GUARDED_BY(mutex_);
  std::vector<Lent> lent_ ABSL_GUARDED_BY(mutex_);
  TraceContext trace_ ABSL_GUARDED_BY(mutex_);
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
};

// The positions of a Reserve, by index: what each is called and what comes before it.
struct ReservedChain {
  std::vector<BlockName> names;
  std::vector<std::optional<BlockKey>> parents;
  std::vector<uint64_t> lengths;    // payload bytes
  std::vector<bool> wanted;
  std::unique_ptr<RequestTrace> trace;  // of the publish, which ends with this
  std::optional<Probe> probe;       // of the prompt's first tokens
  Conversation conversation;
};

struct ClientProcess {  // the process at the other end, as the kernel says
  pid_t pid = 0;
  uid_t uid = 0;
};

class Session {
 public:
  Session(uint64_t id, const Space& space, ClientProcess process, std::string client_name)
      : id_(id), space_(space), process_(process), client_name_(std::move(client_name)) {}

  uint64_t id() const { return id_; }
  const Space& space() const { return space_; }
  const ClientProcess& process() const { return process_; }
  const std::string& client_name() const { return client_name_; }
  // Empty when the client reads only. Set before the session is shared.
  std::optional<Arena>& staging() { return staging_; }

  // ---- Memory of host peers, which the client maps beside this node's ----
  // The attach socket, for offers. Set before the session is shared.
  void set_offers(UniqueFd socket);
  // Offers the client the memory that `lease`, mapped, lies in; once, and none beyond kOfferedArenasMax. Never waits.
  void Offer(const PeerLease& lease);
  // The client has mapped what was offered as `arena`.
  void OnMapped(uint32_t arena);
  // True when the client has mapped an arena of `memory`; each namespace lies in one arena of a peer.
  bool Reads(const HostPeerMemory& memory) const;
  // That node is gone.
  void Withdraw(const HostPeerMemory& memory);

  // Binds the stream; false when one is bound already.
  bool Open(SendToClient send);
  // Dropped silently once closed.
  void Send(v1::NodeMessage message);

  // Errors: InvalidArgument (id in use), ResourceExhausted, Cancelled (closed).
  absl::StatusOr<std::shared_ptr<AcquirePins>> AddAcquire(uint64_t id, size_t positions);
  // Null when unknown.
  std::shared_ptr<AcquirePins> TakeAcquire(uint64_t id);
  // `chain` is taken only when this is OK.
  absl::Status AddReservation(uint64_t id, ReservedChain&& chain);
  std::optional<ReservedChain> TakeReservation(uint64_t id);
  // When the oldest Acquire that is not released began; InfiniteFuture without one.
  absl::Time OldestAcquire() const;

  // Ends every pin and reservation; later calls are refused.
  void Close(Reservations& reservations);

 private:
  absl::Status MayAdd(uint64_t id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t id_;
  const Space& space_;
  const ClientProcess process_;
  const std::string client_name_;
  std::optional<Arena> staging_;

  mutable Mutex mutex_;
  SendToClient send_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  UniqueFd offers_ ABSL_GUARDED_BY(mutex_);                           // the attach socket
  absl::flat_hash_map<uint32_t, bool> offered_ ABSL_GUARDED_BY(mutex_);  // arena -> the client mapped it
  absl::flat_hash_map<uint64_t, std::shared_ptr<AcquirePins>> acquires_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, ReservedChain> reservations_ ABSL_GUARDED_BY(mutex_);
};

// The sessions of a node, by token.
class SessionTable {
 public:
  // `on_close`: told each session's id when it ends; must not block.
  SessionTable(Reservations& reservations, uint64_t staging_bytes_max, std::function<void(uint64_t)> on_close)
      : reservations_(reservations), staging_bytes_max_(staging_bytes_max), on_close_(std::move(on_close)) {}

  struct Created {
    std::shared_ptr<Session> session;
    std::string token;  // 16 random bytes
  };
  // Allocates `staging_bytes` (already rounded). Errors: ResourceExhausted naming the limit.
  absl::StatusOr<Created> Create(const Space& space, ClientProcess process, std::string client_name, uint64_t staging_bytes);
  // Null when unknown.
  std::shared_ptr<Session> Find(const std::string& token) const;
  // Closes and forgets it. Its staging is unmapped when the last commit that reads it is done.
  void Close(const std::string& token);
  void CloseAll();

  // To every session: see Session::Withdraw.
  void Withdraw(const HostPeerMemory& memory);

  size_t size() const;
  uint64_t staging_bytes() const;
  // Over all sessions: see Session::OldestAcquire.
  absl::Time OldestAcquire() const;

 private:
  void End(Session& session);

  Reservations& reservations_;
  const uint64_t staging_bytes_max_;  // for all sessions together
  const std::function<void(uint64_t)> on_close_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Session>> sessions_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t staging_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
