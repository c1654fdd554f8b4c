// SpillStore over RocksDB: payloads in blob files, beside them a small index that a restart reads in one pass.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "proto/status.h"
#include "storage/spill/spill_store.h"

namespace stem {

struct RocksSpillOptions {
  std::string directory;                    // created if missing; one store at a time
  uint64_t free_bytes_min = 256ULL << 20;   // Put leaves at least this much free on the file system
};

class RocksSpillStore final : public SpillStore {
 public:
  // Opens what an earlier process left there, or starts empty. Takes up to half of the process's file descriptors.
  // Errors: as SpillDirectory::Open; DataLoss (RocksDB cannot make sense of its files; delete them to start cold);
  // Unavailable (disk failed); ResourceExhausted (disk full already).
  static absl::StatusOr<std::unique_ptr<RocksSpillStore>> Open(const RocksSpillOptions& options);

  // Makes removals durable. Nobody may be inside a call.
  ~RocksSpillStore() override;

  absl::Status Put(std::span<const SpillWrite> writes) override;
  void Get(std::span<SpillRead> reads) override;
  absl::Status Remove(std::span<const BlockName> names) override;
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) override;
  absl::StatusOr<bool> CollectGarbage() override;
  uint64_t bytes_used() const override;
  SpillStats stats() const override;

  // Whether the page cache is bypassed; false where the file system refuses O_DIRECT, which is worth a log line.
  bool direct_io() const;

 private:
  class Impl;  // everything that names RocksDB
  explicit RocksSpillStore(std::unique_ptr<Impl> impl);

  const std::unique_ptr<Impl> impl_;
};

}  // namespace stem
