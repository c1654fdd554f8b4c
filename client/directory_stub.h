// Asks a list of directories as if it were one: the nearest that is well and exact answers, another one when it does not, all
// within the caller's one deadline. For nodes and routers; engines have the cache client.
//
// A lookup goes to the first of DirectoryChoice's order. When that is silent for longer than its answers usually take (or for
// its share of the time that is left, if that is less), the next is asked beside it and the first good answer wins: a black hole
// costs 10 to 50 ms once and is then known. Such second requests come out of a budget, one for ten answers, so that directories
// that are slow because they are busy are not asked twice as much. Errors are not waited for: the next is asked at once.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/directory_choice.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/trace_context.h"
#include "proto/validate.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {

inline constexpr size_t kDirectoriesMax = 64;

// Counts since construction.
struct DirectoryStubStats {
  uint64_t lookups = 0;          // Match and Score
  uint64_t unanswered = 0;       // of those
  uint64_t failovers = 0;        // further directories asked after an error
  uint64_t hedges = 0;           // further directories asked beside a silent one
  uint64_t second_opinions = 0;  // further directories asked because an answer was stale
  uint64_t probes = 0;
};

// Threads: any.
class DirectoryStub {
 public:
  struct Options {
    std::string requester;  // the node that asks; empty for routers
    std::function<void(grpc::ClientContext&)> authorize;  // shows that the caller is a member; any thread
    std::string host;       // see DirectoryChoice
    absl::Duration second_opinion_max = absl::Milliseconds(20);  // how long a stale answer waits for an exact one
  };
  explicit DirectoryStub(Options options);
  ~DirectoryStub();  // Stop
  DirectoryStub(const DirectoryStub&) = delete;
  DirectoryStub& operator=(const DirectoryStub&) = delete;

  // host:port each, in the order that breaks ties. Calls that run go on with the directories they began with; what is known
  // of those that stay is kept. Errors: InvalidArgument (more than kDirectoriesMax), and nothing has changed.
  absl::Status SetDirectories(const std::vector<std::string>& addresses);

  // What to look for. Borrowed for the call.
  struct Lookup {
    NamespaceFingerprint space;
    std::span<const BlockKey> keys;      // chain keys, 1..65536
    std::span<const WantedPart> parts;   // empty = part 0
    std::string first;                   // directory to ask before all others; empty = by its own choice
    TraceContext trace;                  // under which the directory's work nests; not valid = none
    std::optional<Probe> probe;          // of the first tokens, when `keys` begin at the chain's first block
  };
  // Both replies are validated against the request. An answer labelled stale is given only when no other directory that may be
  // exact says so within second_opinion_max; each directory's label is remembered for a second, so that this costs little. Errors:
  // Unavailable (nobody answered in time, or the list is empty), InvalidArgument (a directory refused the request).
  absl::StatusOr<stemcache::v1::MatchReply> Match(const Lookup& lookup, absl::Time deadline);
  absl::StatusOr<stemcache::v1::ScoreReply> Score(const Lookup& lookup, std::span<const std::string> candidates,
                                                  absl::Time deadline);

  // An intent is kept by one directory, the same for all that name the same route and have the same list.
  struct Intent {
    stemcache::v1::IntendRequest request;  // the requester is filled in
    uint64_t route = 0;                    // e.g. a word of the chain's first key
    std::string at;                        // directory to ask, and no other; empty = by route
  };
  struct Intended {
    stemcache::v1::IntendReply reply;  // validated
    std::string directory;             // who gave it
  };
  using OnIntended = std::function<void(absl::StatusOr<Intended>)>;
  // Returns at once; `done` runs once, on the stub's thread or inside this call, and must not block. Errors: as of Match.
  void Intend(Intent intent, absl::Time deadline, OnIntended done);

  // Cancels intents that are outstanding and waits for their callbacks, so not from one; later ones fail at once.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  std::vector<DirectoryChoice::State> Status() const;
  DirectoryStubStats stats() const;

 private:
  using Stub = stemcache::v1::Directory::Stub;
  template <typename Request, typename Reply>
  class Race;
  struct IntendCall;
  // An asynchronous call that is out: everything that gRPC writes to until it ends.
  struct Outstanding;
  template <typename Reply>
  struct OutstandingCall;

  std::shared_ptr<Stub> StubOf(const std::string& address) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  template <typename Change>
  void Count(Change change) ABSL_LOCKS_EXCLUDED(mutex_);
  bool MayHedge() const ABSL_LOCKS_EXCLUDED(mutex_);
  void CountHedge() ABSL_LOCKS_EXCLUDED(mutex_);
  void SendProbes() ABSL_LOCKS_EXCLUDED(mutex_);
  void TryIntend(const std::shared_ptr<IntendCall>& call);
  void OnIntendAnswer(const std::shared_ptr<IntendCall>& call, const absl::Status& answer,
                      stemcache::v1::IntendReply& reply);
  void OnProbeAnswer(const std::string& address, absl::Time began, const absl::Status& answer, bool exact)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // Starts a call whose `done` runs on the stub's thread; nothing happens, and it returns false, after Stop and for an address
  // that left the list. `start`: the stub's Async method.
  template <typename Reply, typename Start, typename Request, typename Done>
  bool StartCall(Start start, const std::string& address, const Request& request, absl::Duration limit, Done done)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  mutable Mutex mutex_;
  DirectoryChoice choice_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<Stub>> stubs_ ABSL_GUARDED_BY(mutex_);
  grpc::CompletionQueue queue_;  // of the asynchronous calls; tags are keys of outstanding_
  std::map<uintptr_t, std::unique_ptr<Outstanding>> outstanding_ ABSL_GUARDED_BY(mutex_);
  uintptr_t last_call_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);  // serves queue_, from the first asynchronous call on
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  double hedges_left_ ABSL_GUARDED_BY(mutex_);
  DirectoryStubStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
