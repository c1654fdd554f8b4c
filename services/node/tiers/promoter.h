// Reads spilled blocks back into slots and proves them; what was encoded is proved as it was stored, decoded into its slot, and has the digest
// of that from then on. Used by the fetcher for its clients and by leases for peers.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "proto/status.h"
#include "services/node/records/metrics.h"
#include "services/node/records/request_trace.h"
#include "services/runtime/log.h"
#include "storage/pool/block_pool.h"
#include "storage/spill/spill_store.h"

namespace stem {

// Threads: any.
class Promoter {
 public:
  static constexpr size_t kReadsPerSweep = 16;  // read from the SSD together
  static constexpr uint64_t kEncodedBytesPerSweep = 8ULL << 20;  // of records to be decoded, which are read beside their slots; or one

  // `store` may be null: no SSD tier. All borrowed.
  Promoter(SpillStore* store, NodeMetrics& metrics, Logger& log) : store_(store), metrics_(metrics), log_(log) {}

  // The permission to bring a block back that was on SSD when its caller looked. Errors: NotFound (it has left meanwhile), and BeginFill's.
  static absl::StatusOr<Filling> Begin(BlockPool& pool, const BlockName& name, absl::Time deadline);

  // Reads the records of `fillings` (each of Begin) into their slots, proves them and commits them in order.
  // Each result is a pin or why not: DataLoss (quarantined, counted), NotFound, FailedPrecondition. `trace`: of the request that they are
  // for, which gets one promote, read and prove step of all its promotions; null = of none.
  std::vector<absl::StatusOr<BlockPin>> Promote(BlockPool& pool, std::vector<Filling> fillings, RequestTrace* trace);

  // Pins `names` in DRAM, one after the other: reads what is on SSD, a sweep at a time, and waits for what others bring. Until `deadline` it waits
  // for slots and for those. `take`: told of each pin in order, and whether it had to be waited for. Stops at the first that is not to be
  // had and says why: NotFound (it is not held, or not any more), ResourceExhausted (no slot), DeadlineExceeded, and as Promote.
  absl::Status BringRun(BlockPool& pool, std::span<const BlockName> names, absl::Time deadline, RequestTrace* trace,
                        absl::FunctionRef<void(BlockPin, bool waited)> take);

  // Whether the slot still holds, header and payload, what this node wrote.
  static bool IsGood(const BlockPin& pin);

  // Proves again a block that a client or peer found bad; quarantines it when it is. A reader's word alone withdraws
  // nothing: it could be the reader's memory, or malice. `reader`: "client" or "peer".
  void Recheck(BlockPool& pool, const BlockName& name, absl::string_view reader);

  // Withdraws a block, of which the copy that `bad` tells of failed its proof, with its subtree, from `pool` and the store. False when that copy
  // has left meanwhile, which is no failure.
  bool Quarantine(BlockPool& pool, const BlockMeta& bad, absl::string_view tier, absl::string_view why);

  // Removes the records of blocks that were withdrawn. Errors: as SpillStore::Remove.
  absl::Status RemoveSpilled(std::span<const SpillRecordId> gone);

 private:
  // Reads the records of `fillings`, one sweep of them, and commits what proves itself; appends to `pins`.
  void PromoteSweep(BlockPool& pool, std::span<Filling> fillings, RequestTrace* trace, std::vector<absl::StatusOr<BlockPin>>& pins);
  // A block that someone else may be bringing; `stopped`: why this caller cannot, OK if it did not try. Invalid: it is worth another look.
  static absl::StatusOr<BlockPin> PinAwaited(BlockPool& pool, const BlockName& name, absl::Time deadline, const absl::Status& stopped);

  SpillStore* const store_;
  NodeMetrics& metrics_;
  Logger& log_;
};

}  // namespace stem
