// The durable half of the store's books: which blocks are on disk and where. RocksDB, with a log, as an entry has some
// hundred bytes; it is read once, at the start, and never while blocks are read. The only file that sees RocksDB is
// spill_index.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "proto/status.h"
#include "storage/spill/record.h"

namespace rocksdb {
class DB;
class Statistics;
}  // namespace rocksdb

namespace stem {

// Threads: one at a time; write_bytes from any.
class SpillIndex {
 public:
  // Opens or creates the database at `path`.
  // Errors: DataLoss (RocksDB cannot make sense of its files), Unavailable (disk failed), ResourceExhausted (disk full).
  static absl::StatusOr<std::unique_ptr<SpillIndex>> Open(const std::string& path, bool direct_io);

  ~SpillIndex();
  SpillIndex(const SpillIndex&) = delete;
  SpillIndex& operator=(const SpillIndex&) = delete;

  // How many entries there are, more or less.
  uint64_t entries() const;

  // Visits every entry; a damaged one as the DataLoss that names what is wrong. Merging waits until the first visit is over.
  // Errors: DataLoss (a part could not be read; what was visited is good), Unavailable.
  absl::Status ForEach(absl::FunctionRef<void(const BlockName&, const absl::StatusOr<SpillRecord>&)> visit);

  enum class Durable { kNow, kWithTheNextSync };

  // Enters and removes, all or nothing. After an error nobody knows whether it happened: Reopen, then write again.
  // Errors: Unavailable, ResourceExhausted.
  absl::Status Write(std::span<const SpillRecord> records, std::span<const BlockName> removals, Durable durable);

  // All that was written before survives a power loss. Errors: as Write.
  absl::Status Sync();

  // After an error of a write: closes the database and opens what is on the disk. Errors: as Open.
  absl::Status Reopen();

  // Forgets everything. Errors: as Open.
  absl::Status Clear();

  // What reached the disk: log, tables, and the merging of those.
  uint64_t write_bytes() const;

 private:
  SpillIndex(std::string path, bool direct_io);
  absl::Status OpenDatabase(bool merge);

  const std::string path_;
  const bool direct_io_;
  const std::shared_ptr<rocksdb::Statistics> statistics_;
  std::unique_ptr<rocksdb::DB> db_;  // null only while it cannot be opened
};

}  // namespace stem
