// SpillStore on a disk: payloads in one file that is reused in a ring, what they are in a RocksDB index and in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "storage/spill/page_map.h"
#include "storage/spill/payload_file.h"
#include "storage/spill/disk_crew.h"
#include "storage/spill/record_table.h"
#include "storage/spill/spill_directory.h"
#include "storage/spill/spill_index.h"
#include "storage/spill/spill_store.h"

namespace stem {

struct DiskSpillOptions {
  std::string directory;                   // created if missing; one store at a time
  uint64_t free_bytes_min = 256ULL << 20;  // Put leaves at least this much free on the file system
  // The payload file grows no further; larger already, its free pages are used. Where it is reached and only smaller
  // holes are left, payloads are cut into pieces.
  uint64_t file_bytes_max = 15ULL << 40;
};

class DiskSpillStore final : public SpillStore {
 public:
  // Opens what an earlier process left there, or starts empty; reads the index.
  // Errors: as SpillDirectory::Open; DataLoss (RocksDB cannot make sense of its files; delete them to start cold);
  // Unavailable (disk failed); ResourceExhausted (disk full already).
  static absl::StatusOr<std::unique_ptr<DiskSpillStore>> Open(const DiskSpillOptions& options);

  // Nobody may be inside a call.
  ~DiskSpillStore() override;

  absl::Status Put(std::span<const SpillWrite> writes) override;
  void Get(std::span<SpillRead> reads) override;
  absl::Status Remove(std::span<const SpillRecordId> records) override;
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) override;
  SpillStats stats() const override;

  // Whether the page cache is bypassed; false where the file system refuses O_DIRECT, which is worth a log line.
  bool direct_io() const { return directory_->direct_io(); }

 private:
  // A read and where its payload lies.
  struct Find {
    SpillRead* read = nullptr;
    SpillRecord record;
  };

  // Payloads that lie next to each other, as one request.
  struct WriteRun {
    uint64_t page = 0;
    uint64_t pages = 0;
    std::vector<iovec> pieces;
  };

  DiskSpillStore(const DiskSpillOptions& options, std::unique_ptr<SpillDirectory> directory,
                 std::unique_ptr<SpillIndex> index, std::unique_ptr<PayloadFile> file);
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Reads neighbours on disk as one request, and proves them.
  void ReadRun(std::span<Find> run);
  // What became of one read; tries again when the record was replaced or removed under it.
  void Finish(Find& find, absl::Status status);
  absl::Status ReadPayload(const SpillRecord& record, std::span<std::byte> payload) const;

  // After a failed write: takes back what may have been kept of it.
  absl::Status Recover() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Failed(std::span<const BlockName> names, const absl::Status& cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Forget(std::span<const BlockName> names) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives the pages of removed records out again; all removals are durable.
  void ReleaseRemoved() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RequireRoom(uint64_t pages, size_t records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Grow(uint64_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Extents> TakePages(uint32_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Finds pages for `writes` and writes them; `records` are those that have pages, also after an error.
  absl::Status Place(std::span<const SpillWrite> writes, std::vector<SpillRecord>& records)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteRuns(std::span<WriteRun> runs);
  // Flushes payloads and enters them.
  absl::Status MakeDurable(std::span<const SpillRecord> records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Enter(const SpillRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Strike(const BlockName& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DiskSpillOptions options_;
  const std::unique_ptr<SpillDirectory> directory_;
  const std::unique_ptr<PayloadFile> file_;
  RecordTable table_;
  absl::Status load_status_;  // set by Load, constant after it

  mutable Mutex mutex_;  // writers take turns, and the disk's flush is part of a turn
  const std::unique_ptr<SpillIndex> index_;  // used by whoever holds the lock, but for its count of bytes
  PageMap map_ ABSL_GUARDED_BY(mutex_);
  // Pages of removed records: theirs until the removal is durable, or a crash would bring back records without payload.
  std::vector<Extent> removed_ ABSL_GUARDED_BY(mutex_);
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<BlockName> undo_ ABSL_GUARDED_BY(mutex_);  // names of writes that failed, and of removals not durable yet

  std::atomic<uint64_t> reads_active_{0};
  std::atomic<uint64_t> records_{0};
  std::atomic<uint64_t> live_bytes_{0};
  std::atomic<uint64_t> live_pages_{0};
  std::atomic<uint64_t> writes_{0};
  std::atomic<uint64_t> write_bytes_{0};
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> corrupt_records_{0};

  DiskCrew readers_;
  DiskCrew writers_;  // apart, as reads go first
};

}  // namespace stem
