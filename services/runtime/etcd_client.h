// etcd, as far as a member of a cluster needs it: keys under a lease, a prefix at a revision, and what changes after it.
// The one seam between etcd's gRPC API and the rest; knows nothing of what the values mean.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"
#include "proto/mutex.h"

namespace stem {

inline constexpr size_t kEtcdEndpointsMax = 16;
inline constexpr size_t kEtcdEntriesMax = 65536;  // under one prefix

struct EtcdEntry {
  std::string key;
  std::string value;
  int64_t mod_revision = 0;  // of the key's last change
};

// A prefix as it was at `revision`.
struct EtcdPicture {
  uint64_t cluster_id = 0;
  int64_t revision = 0;
  std::vector<EtcdEntry> entries;  // ascending keys
};

// One step of a watch.
struct EtcdChanges {
  struct Change {
    std::string key;
    std::optional<std::string> value;  // absent = the key was deleted
    int64_t revision = 0;              // that it made
  };
  uint64_t cluster_id = 0;
  int64_t revision = 0;  // of the store
  bool opened = false;   // the watch stands from here on; says nothing else
  bool partial = false;  // more changes up to `revision` follow
  std::vector<Change> changes;
};

struct EtcdLease {
  int64_t id = 0;
  absl::Duration ttl;  // as granted, which may be more than was asked for
};

// Every call asks the endpoint that answered last, and the others in turn when it does not, within `call_max` in all; it may
// have been done although it failed. Errors of all: Unavailable (no endpoint answered, or etcd has no leader), Cancelled (after
// Shutdown), Internal. Threads: any.
class EtcdClient {
 public:
  // `endpoints`: host:port each, 1 to kEtcdEndpointsMax.
  EtcdClient(const std::vector<std::string>& endpoints, absl::Duration call_max);
  ~EtcdClient();
  EtcdClient(const EtcdClient&) = delete;
  EtcdClient& operator=(const EtcdClient&) = delete;

  // Ends the calls that run, and lets no new one begin.
  void Shutdown() ABSL_LOCKS_EXCLUDED(mutex_);

  // All keys that begin with `prefix`, at `revision` (0 = the newest). Errors: OutOfRange (the revision is compacted),
  // ResourceExhausted (more than kEtcdEntriesMax).
  absl::StatusOr<EtcdPicture> Range(const std::string& prefix, int64_t revision = 0);
  absl::StatusOr<std::optional<EtcdEntry>> Get(const std::string& key);

  // `lease` 0 = none. Return the store's revision. Errors: NotFound (the lease is over).
  absl::StatusOr<int64_t> Put(const std::string& key, const std::string& value, int64_t lease);
  // Only if the key's last change is still `mod_revision` (0 = it is absent). Errors also: Aborted (it is not).
  absl::StatusOr<int64_t> PutIf(const EtcdEntry& entry, int64_t lease);
  // OK also when the key is absent.
  absl::Status Delete(const std::string& key);

  absl::StatusOr<EtcdLease> GrantLease(absl::Duration ttl);
  // Errors: NotFound (the lease is over).
  absl::Status KeepAlive(int64_t lease);
  // Deletes the keys under it.
  absl::Status RevokeLease(int64_t lease);

  // Tells `on_changes` what happens under `prefix` from `revision` on, in order, until the stream breaks, Shutdown, or it
  // returns false (then Cancelled). Never OK. Errors also: OutOfRange (compacted: read the prefix anew).
  absl::Status Watch(const std::string& prefix, int64_t revision, absl::FunctionRef<bool(const EtcdChanges&)> on_changes);

 private:
  struct Endpoint;
  class Call;

  // Tries the endpoints in turn; `call` is one RPC.
  absl::Status Try(absl::FunctionRef<grpc::Status(Endpoint&, grpc::ClientContext&)> call) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WatchOn(Endpoint& endpoint, const std::string& prefix, int64_t revision,
                       absl::FunctionRef<bool(const EtcdChanges&)> on_changes);

  const absl::Duration call_max_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  std::atomic<size_t> preferred_{0};
  Mutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

// The first key after all that begin with `prefix`.
std::string EndOfPrefix(std::string prefix);

}  // namespace stem
