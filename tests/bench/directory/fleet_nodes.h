// Simulated nodes: each has a real Announce stream, over a connection of its own, to every directory. What a node holds
// follows from one number, how often it has churned, so a thousand of them take little memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "proto/validate.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "tests/bench/directory/shape.h"

namespace stem::bench {

struct FleetOptions {
  uint32_t nodes = 100;
  uint64_t blocks = 1'000'000;  // distinct, over all nodes
  uint32_t chain_blocks = 1000;
  uint32_t copies = 1;               // nodes that hold each chain
  double churn_per_second = 20'000;  // changes, over all nodes
  uint32_t heartbeat_ms = 1000;
};

// One node's chains by ordinal: [0, stable) for ever, and a window behind them that moves on by one with each turn of
// churn: one chain comes, the oldest goes.
class FleetNode {
 public:
  FleetNode(const FleetOptions& options, uint32_t number);

  uint32_t number() const { return number_; }
  uint32_t stable() const { return stable_; }
  uint32_t chains() const { return chains_; }
  uint64_t turns() const { return turns_; }
  void Turn() { ++turns_; }
  // The last change after so many turns; the first ones are what it began with.
  uint64_t sequence(uint64_t turns) const { return (chains_ + 2 * turns) * uint64_t{chain_blocks_}; }

  uint64_t ChainAt(uint64_t ordinal) const { return uint64_t{owner_} << 24 | ordinal; }
  // Chunk `index` of a snapshot after `turns`.
  void FillChunk(uint64_t turns, uint32_t index, v1::SnapshotChunk& chunk) const;
  void FillBatch(uint64_t turn, v1::Batch& batch) const;

 private:
  v1::ChangeRun* AddRun(uint64_t ordinal, v1::ChangeRun* run) const;

  const uint32_t number_;
  const uint32_t owner_;  // nodes with the same owner hold the same
  const uint32_t chain_blocks_;
  const uint32_t chains_;
  const uint32_t stable_;
  std::atomic<uint64_t> turns_{0};
};

class FleetStream;

class Fleet {
 public:
  Fleet(const FleetOptions& options, std::vector<std::string> directories);
  ~Fleet();
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // Begins to connect, beat and churn; lost streams are opened again.
  void Start();
  // The last `count` nodes that live end without a word.
  void KillNodes(uint32_t count);

  uint32_t alive() const { return alive_; }
  const FleetNode& node(uint32_t number) const { return *nodes_[number]; }
  uint64_t resyncs() const { return resyncs_; }

 private:
  void Loop();
  void Visit(uint32_t number);

  const FleetOptions options_;
  const std::vector<std::string> directories_;
  const ClusterSecret secret_;
  std::vector<std::unique_ptr<FleetNode>> nodes_;
  std::vector<std::vector<std::unique_ptr<v1::Directory::Stub>>> stubs_;  // by node, directory
  std::vector<std::vector<std::unique_ptr<FleetStream>>> streams_;        // same; of the loop's thread
  std::atomic<uint32_t> alive_;
  std::atomic<uint64_t> resyncs_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace stem::bench
