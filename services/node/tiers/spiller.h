// Moves the least valuable blocks from DRAM to SSD ahead of demand, under the disk's quota. One thread. A block counts as
// spilled only after its batch is durable; then its holder changes tier, then its slot is free (law 6).
#pragma once

#include <atomic>
#include <thread>

#include "services/node/records/request_trace.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/log.h"
#include "storage/spill/spill_store.h"

namespace stem {

class Spiller {
 public:
  // All borrowed; starts its thread.
  Spiller(SpaceTable& spaces, SpillStore& store, LatestPublish& latest, const RequestSinks& sinks, Logger& log);
  // Finishes the batch at hand.
  ~Spiller();
  Spiller(const Spiller&) = delete;
  Spiller& operator=(const Spiller&) = delete;

 private:
  void Run();
  // Brings `pool` under its SSD quota and spills one batch of it; returns how many blocks were given up there or written.
  size_t Step(BlockPool& pool);
  // Says when the disk begins to fail and when it works again.
  void Note(const absl::Status& status, size_t blocks);
  void Trace(absl::Time begin, size_t blocks, uint64_t bytes, const absl::Status& status);

  SpaceTable& spaces_;
  SpillStore& store_;
  LatestPublish& latest_;
  const RequestSinks& sinks_;
  Logger& log_;
  std::atomic<bool> stopping_{false};
  bool failing_ = false;  // so that a full disk is told once, not at every batch
  std::thread thread_;
};

}  // namespace stem
