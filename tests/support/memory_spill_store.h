// SpillStore in memory: the contract's second implementation, and a fast SSD tier for tests of the node.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/mutex.h"
#include "storage/spill/spill_store.h"

namespace stem {

class MemorySpillStore final : public SpillStore {
 public:
  // `capacity_bytes`: of live records; a Put beyond it is refused as by a full disk.
  explicit MemorySpillStore(uint64_t capacity_bytes = UINT64_MAX) : capacity_bytes_(capacity_bytes) {}

  absl::Status Put(std::span<const SpillWrite> writes) override;
  void Get(std::span<SpillRead> reads) override;
  absl::Status Remove(std::span<const SpillRecordId> records) override;
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) override;
  SpillStats stats() const override;

 private:
  struct Record {
    BlockMeta meta;
    std::vector<std::byte> payload;
  };

  absl::Status Read(SpillRead& read) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Erase(const BlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t capacity_bytes_;
  mutable Mutex mutex_;
  absl::flat_hash_map<BlockName, Record> records_ ABSL_GUARDED_BY(mutex_);
  SpillStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
