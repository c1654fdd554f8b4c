// Computes a stem once in the cluster: asks the directories whether somebody computes it already, and waits for that if so. Best
// effort: whatever goes wrong ends in computing, and nothing here holds a thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/directory_stub.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "services/node/records/metrics.h"

namespace stem {

// Threads: any.
class SingleFlight {
 public:
  // Both borrowed; `directories` must be stopped before this is destroyed.
  SingleFlight(DirectoryStub& directories, NodeMetrics& metrics) : directories_(directories), metrics_(metrics) {}

  struct Want {
    uint64_t session = 0;
    NamespaceFingerprint space;
    std::vector<BlockKey> keys;  // that are missing, chain order: part keys of the part that is published last
    uint64_t route = 0;          // the same for all chains that begin alike
    absl::Duration compute;      // how long the engine will take
    absl::Time deadline;         // of the acquire
  };
  enum class Verdict {
    kOurs,   // this session computes, others wait for it
    kAgain,  // somebody else was computing and no longer is: match again
    kGoOn,   // with what there is: it takes too long, or nobody can be asked
  };
  struct Answer {
    Verdict verdict;
    std::string directory;  // that knows best what was announced; empty: nobody does
    bool waited = false;    // for somebody who computed
  };
  using OnAnswer = std::function<void(const Answer&)>;

  // Waits no longer than computing would take with half as much again for publishing, and leaves an eighth of the time to the
  // deadline for loading. `done` runs once, inside this call or on a thread of the stub, and must not block.
  void Ask(Want want, OnAnswer done);

  // The session will not compute what it said, or has ended: others need not wait.
  void GiveUp(uint64_t session);

 private:
  static constexpr size_t kOwnMax = 4096;
  struct Own {  // an intent that was granted
    NamespaceFingerprint space;
    std::vector<BlockKey> keys;
    std::string directory;
    absl::Time ends;
  };

  bool IsOwn(const Want& want, absl::Time now);
  void Remember(const Want& want, const std::string& directory, absl::Duration duration);
  void Wait(const Want& want, const std::string& directory, absl::Duration wait, OnAnswer done);

  DirectoryStub& directories_;
  NodeMetrics& metrics_;
  Mutex mutex_;
  std::multimap<uint64_t, Own> own_ ABSL_GUARDED_BY(mutex_);  // by session
};

}  // namespace stem
