// How reads from other nodes went: told to every directory with its heartbeats, so that it offers sick nodes less.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proto/mutex.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

// Threads: any. One read is one lease and the blocks that were read under it, so that peers that answer nothing and peers that
// answer much weigh alike.
class PeerReports {
 public:
  enum class Result {
    kGood,
    kLate,     // too late, or not to be reached
    kCorrupt,  // bytes that failed their proof
  };
  void Count(const std::string& peer, Result result);

  // What one stream has still to tell: adds to a heartbeat what was counted since it was last called, or since it was made.
  // Counting for it ends when the last copy of the function goes.
  using Teller = std::function<void(stemcache::v1::Heartbeat&)>;
  Teller NewTeller();

 private:
  static constexpr size_t kPeersMax = 1024;  // in one heartbeat; those beyond are not counted

  struct Untold {
    Mutex mutex;
    std::map<std::string, stemcache::v1::PeerReport> peers ABSL_GUARDED_BY(mutex);
  };

  Mutex mutex_;
  std::vector<std::weak_ptr<Untold>> tellers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
