// Follows one engine's KV events (ZeroMQ) into an EngineBlocks: what was published before, by the engine's replay; then what comes; what
// was missed, by replay again.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "proto/status.h"
#include "services/node/engines/engine_blocks.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/listen.h"
#include "services/runtime/log.h"
#include "services/runtime/metrics_page.h"

namespace stem {

// As in vLLM's --kv-events-config.
struct EngineFollowerOptions {
  std::string endpoint;        // vLLM binds what has a * or :: or is ipc://, and connects to anything else: this does the other
  std::string replay;          // replay_endpoint; empty: what was missed is forgotten
  std::string namespace_file;  // that the engine's connector wrote
};

// Errors: InvalidArgument naming the flag.
absl::Status CheckEngineFollower(const EngineFollowerOptions& options);

// Where the follower of checked options will listen, as the engine connects; nothing where it is the engine that listens.
std::optional<HostPort> ListenAddressOf(const EngineFollowerOptions& options);

// One thread of its own. Waits until the trust group of the namespace file's owner has registered that namespace, which the engine's
// connector does.
class EngineFollower {
 public:
  // Borrows all but the options; `on_change` as of EngineBlocks.
  EngineFollower(EngineFollowerOptions options, const SpaceTable& spaces, EngineBlocks::OnChange on_change, Logger& log);
  ~EngineFollower();
  EngineFollower(const EngineFollower&) = delete;
  EngineFollower& operator=(const EngineFollower&) = delete;

  // As of EngineBlocks; nothing before the namespace is known. Threads: any.
  void Snapshot(const EngineBlocks::OnChange& each) const;
  EngineBlocksStats stats() const;
  void Fill(MetricsPage& page) const;

 private:
  class Sockets;

  void Run();
  const Space* AwaitSpace();
  void Follow(EngineBlocks& blocks);
  // Asks for batches from the last that was applied on, and applies those behind it; all, when that is not what it was.
  void CatchUp(Sockets& sockets, EngineBlocks& blocks);
  void OnBatch(Sockets& sockets, EngineBlocks& blocks, uint64_t number, const std::string& payload);
  void ApplyBatch(EngineBlocks& blocks, uint64_t number, const absl::StatusOr<EngineEventBatch>& batch);
  // The engine that was followed is gone, and its blocks with it.
  void BeginAnew(EngineBlocks& blocks, uint64_t number);

  const EngineFollowerOptions options_;
  const SpaceTable& spaces_;
  const EngineBlocks::OnChange on_change_;
  Logger& log_;
  std::atomic<bool> stopping_{false};
  mutable Mutex mutex_;
  std::unique_ptr<EngineBlocks> blocks_ ABSL_GUARDED_BY(mutex_);  // set once
  std::atomic<uint64_t> batches_{0};
  std::atomic<uint64_t> replayed_{0};  // of these
  std::atomic<uint64_t> refused_batches_{0};
  std::atomic<uint64_t> lost_{0};  // batches that never came
  // Of the thread alone:
  uint64_t next_ = 0;  // number of the batch that comes next
  uint64_t last_live_ = 0;
  double applied_unix_seconds_ = 0;  // when the engine made the last batch that was applied
  std::string refused_;              // why, logged once
  std::thread thread_;
};

}  // namespace stem
