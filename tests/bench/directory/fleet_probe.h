// A client that asks directories for stems while they come and go: the simplest that fails over.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "proto/mutex.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "tests/bench/directory/fleet_nodes.h"
#include "tests/bench/directory/measure.h"

namespace stem::bench {

// Asks for whole chains that never churn, of random living nodes.
class Prober {
 public:
  static constexpr int kAttemptMillis = 200;
  static constexpr int kDeadlineMillis = 1000;  // over all attempts

  Prober(const Fleet& fleet, const std::vector<std::string>& directories, uint32_t chain_blocks, double per_second);
  ~Prober();
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  void Start();
  // What happened since the last call.
  nlohmann::ordered_json Take();

  // One directory's answer, without failover; nothing when there was none.
  std::optional<v1::MatchReply> Ask(size_t directory, uint64_t chain, int millis) const;

 private:
  struct Counts {
    uint64_t asked = 0, answered = 0, whole = 0, exact = 0, second_tries = 0;
    Samples ns;
  };

  void Loop();
  void Probe(uint64_t chain);

  const Fleet& fleet_;
  const uint32_t chain_blocks_;
  const double per_second_;
  const ClusterSecret secret_;
  std::vector<std::unique_ptr<v1::Directory::Stub>> stubs_;
  size_t preferred_ = 0;
  mutable Mutex mutex_;
  Counts counts_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace stem::bench
