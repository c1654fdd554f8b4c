#include "storage/spill/rocks_spill_store.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "proto/mutex.h"
#include "rocksdb/db.h"
#include "rocksdb/metadata.h"
#include "rocksdb/statistics.h"
#include "rocksdb/write_batch.h"
#include "storage/spill/garbage.h"
#include "storage/spill/record.h"
#include "storage/spill/rocks_options.h"
#include "storage/spill/spill_directory.h"

namespace stem {
namespace {

// Index of a column family in Impl::families_.
constexpr size_t kMeta = 0;     // name -> header
constexpr size_t kPayload = 1;  // name -> record, as a blob

constexpr uint64_t kBatchBytesMax = 32ULL << 20;      // of one write batch; a larger Put is several, flushed together
constexpr uint64_t kFlushOverheadBytes = 8ULL << 20;  // index files, manifest and file ends of one flush, at most

}  // namespace

class RocksSpillStore::Impl {
 public:
  Impl(std::unique_ptr<SpillDirectory> directory, uint64_t free_bytes_min)
      : directory_(std::move(directory)), free_bytes_min_(free_bytes_min) {}
  ~Impl();

  absl::Status Start();
  absl::Status Put(std::span<const SpillWrite> writes);
  void Get(SpillRead& read);
  absl::Status Remove(std::span<const BlockName> names);
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit);
  absl::StatusOr<bool> CollectGarbage();
  SpillStats stats() const;
  uint64_t live_bytes() const { return live_bytes_.load(std::memory_order_relaxed); }
  const SpillDirectory& directory() const { return *directory_; }

 private:
  // Bytes of the record of `name`; 0 = there is none.
  uint64_t RecordBytesOf(const BlockName& name);
  absl::Status Recount();
  absl::Status RequireRoom(uint64_t bytes) const;

  // After a failed write: makes RocksDB write again, and takes back what it kept of Puts that had failed.
  absl::Status Recover() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Failed(const absl::Status& cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status WriteAll(std::span<const SpillWrite> writes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Writes batch_ to the memtables and counts it.
  absl::Status ApplyBatch(int64_t live_bytes, int64_t records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status RemoveAll(std::span<const BlockName> names) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Flush();

  absl::Status Read(SpillRead& read);
  absl::StatusOr<bool> CollectOneRound() ABSL_EXCLUSIVE_LOCKS_REQUIRED(collect_mutex_);
  absl::Status Compact(rocksdb::BlobGarbageCollectionPolicy policy, double cutoff);
  // Whether more than `share` of the blob bytes belong to no live record, and that is more than a little.
  bool GarbageAbove(double share) const;
  uint64_t Property(size_t family, const std::string& name) const;
  uint64_t DiskBytes() const;

  const std::unique_ptr<SpillDirectory> directory_;
  const uint64_t free_bytes_min_;

  // Set by Start(), constant after it; RocksDB's own locks guard what is inside.
  std::shared_ptr<rocksdb::Statistics> statistics_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;

  Mutex collect_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);  // one garbage round at a time; writes and reads go on beside it
  Mutex mutex_;  // writers take turns, flush included
  rocksdb::WriteBatch batch_ ABSL_GUARDED_BY(mutex_);
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<BlockName> undo_ ABSL_GUARDED_BY(mutex_);  // names of the Put that failed

  std::atomic<uint64_t> records_{0};
  std::atomic<uint64_t> live_bytes_{0};
  std::atomic<uint64_t> writes_{0};
  std::atomic<uint64_t> write_bytes_{0};
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> corrupt_records_{0};
};

RocksSpillStore::Impl::~Impl() {
  if (db_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* family : families_) db_->DestroyColumnFamilyHandle(family).PermitUncheckedError();
  db_->Close().PermitUncheckedError();  // a removal that cannot be made durable comes back as a whole record
}

absl::Status RocksSpillStore::Impl::Start() {
  const rocksdb::DBOptions options = SpillDatabaseOptions(directory_->direct_io());
  statistics_ = options.statistics;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened =
      rocksdb::DB::Open(options, directory_->database_path(), SpillFamilies(), &families_, &db);
  db_.reset(db);
  if (opened.IsCorruption()) {
    return absl::DataLossError(absl::StrCat("spill directory ", directory_->path(), " is damaged (", opened.ToString(),
                                            "); delete it to start cold"));
  }
  STEM_TRY(FromRocks(opened, absl::StrCat("open ", directory_->path())));
  return Recount();
}

absl::Status RocksSpillStore::Impl::Recount() {
  uint64_t bytes = 0;
  uint64_t records = 0;
  // A damaged stretch of the index loses its records, not the store.
  if (absl::Status status = ForEach([&](const BlockMeta& meta) {
        bytes += SpillRecordBytes(meta.length);
        ++records;
      });
      !status.ok() && !absl::IsDataLoss(status)) {
    return status;
  }
  live_bytes_.store(bytes, std::memory_order_relaxed);
  records_.store(records, std::memory_order_relaxed);
  return absl::OkStatus();
}

uint64_t RocksSpillStore::Impl::RecordBytesOf(const BlockName& name) {
  const SpillKey key = EncodeSpillKey(name);
  rocksdb::PinnableSlice value;
  if (!db_->Get(rocksdb::ReadOptions(), families_[kMeta], AsSlice(key), &value).ok()) return 0;
  const absl::StatusOr<BlockMeta> meta = ParseSpillHeader(AsBytes(value), name);
  return meta.ok() ? SpillRecordBytes(meta->length) : 0;
}

absl::Status RocksSpillStore::Impl::RequireRoom(uint64_t bytes) const {
  const uint64_t needed_bytes = bytes + bytes / 64 + kFlushOverheadBytes;
  const uint64_t free_bytes = directory_->free_bytes();
  if (free_bytes >= needed_bytes + free_bytes_min_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("disk full at ", directory_->path(), ": needs ", needed_bytes,
                                                   " bytes beside the ", free_bytes_min_, " kept free, ", free_bytes,
                                                   " free"));
}

absl::Status RocksSpillStore::Impl::Recover() {
  if (!failed_) return absl::OkStatus();
  if (const absl::Status resumed = FromRocks(db_->Resume(), "resume"); !resumed.ok()) return Failed(resumed);
  STEM_TRY(RemoveAll(undo_));
  undo_.clear();
  failed_ = false;
  return Recount();
}

absl::Status RocksSpillStore::Impl::Failed(const absl::Status& cause) {
  failed_ = true;
  if (!absl::IsResourceExhausted(cause)) return cause;
  return absl::ResourceExhaustedError(absl::StrCat("disk full at ", directory_->path(), ": ", directory_->free_bytes(),
                                                   " bytes free; ", cause.message()));
}

absl::Status RocksSpillStore::Impl::Flush() {
  return FromRocks(db_->Flush(rocksdb::FlushOptions(), families_), "flush");
}

absl::Status RocksSpillStore::Impl::ApplyBatch(int64_t live_bytes, int64_t records) {
  rocksdb::WriteOptions options;
  options.disableWAL = true;  // a block counts as spilled only after its flush
  const rocksdb::Status written = db_->Write(options, &batch_);
  const bool oversized = batch_.GetDataSize() > 2 * kBatchBytesMax;
  batch_.Clear();
  if (oversized) batch_ = rocksdb::WriteBatch();  // Clear() keeps the memory
  STEM_TRY(FromRocks(written, "write"));
  live_bytes_.fetch_add(static_cast<uint64_t>(live_bytes), std::memory_order_relaxed);
  records_.fetch_add(static_cast<uint64_t>(records), std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status RocksSpillStore::Impl::WriteAll(std::span<const SpillWrite> writes) {
  int64_t live_bytes = 0;
  int64_t records = 0;
  for (size_t i = 0; i < writes.size(); ++i) {
    const SpillWrite& write = writes[i];
    const SpillKey key = EncodeSpillKey(write.meta.name);
    const SpillHeader header = EncodeSpillHeader(write.meta, write.chunk_hashes);
    const rocksdb::Slice key_slice = AsSlice(key);
    const std::array<rocksdb::Slice, 3> record = {AsSlice(header), AsSlice(std::as_bytes(write.chunk_hashes)),
                                                  AsSlice(write.payload)};
    STEM_TRY(FromRocks(batch_.Put(families_[kMeta], key_slice, record[0]), "add to batch"));
    STEM_TRY(FromRocks(batch_.Put(families_[kPayload], rocksdb::SliceParts(&key_slice, 1),
                                  rocksdb::SliceParts(record.data(), static_cast<int>(record.size()))),
                       "add to batch"));
    const uint64_t replaced_bytes = RecordBytesOf(write.meta.name);
    live_bytes += static_cast<int64_t>(SpillRecordBytes(write.meta.length) - replaced_bytes);
    records += replaced_bytes == 0 ? 1 : 0;
    if (batch_.GetDataSize() < kBatchBytesMax && i + 1 < writes.size()) continue;
    STEM_TRY(ApplyBatch(std::exchange(live_bytes, 0), std::exchange(records, 0)));
  }
  return absl::OkStatus();
}

absl::Status RocksSpillStore::Impl::Put(std::span<const SpillWrite> writes) {
  STEM_TRY(ValidateSpillWrites(writes));
  uint64_t record_bytes = 0;
  for (const SpillWrite& write : writes) record_bytes += SpillRecordBytes(write.meta.length);

  // Copying lags behind removals: the writer waits, or files would grow without a bound.
  if (GarbageAbove(kGarbageShareHard)) STEM_TRY(CollectGarbage().status());
  const MutexLock lock(mutex_);
  if (record_bytes > 0) STEM_TRY(RequireRoom(record_bytes));
  STEM_TRY(Recover());
  absl::Status status = WriteAll(writes);
  if (status.ok()) status = Flush();
  if (!status.ok()) {
    batch_.Clear();
    for (const SpillWrite& write : writes) undo_.push_back(write.meta.name);
    return Failed(status);
  }
  writes_.fetch_add(writes.size(), std::memory_order_relaxed);
  write_bytes_.fetch_add(record_bytes, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status RocksSpillStore::Impl::RemoveAll(std::span<const BlockName> names) {
  int64_t live_bytes = 0;
  int64_t records = 0;
  absl::flat_hash_set<BlockName> seen;
  for (const BlockName& name : names) {
    if (!seen.insert(name).second) continue;
    const SpillKey key = EncodeSpillKey(name);
    const uint64_t record_bytes = RecordBytesOf(name);
    live_bytes -= static_cast<int64_t>(record_bytes);
    records -= record_bytes == 0 ? 0 : 1;
    STEM_TRY(FromRocks(batch_.Delete(families_[kMeta], AsSlice(key)), "add to batch"));
    STEM_TRY(FromRocks(batch_.Delete(families_[kPayload], AsSlice(key)), "add to batch"));
  }
  return ApplyBatch(live_bytes, records);
}

absl::Status RocksSpillStore::Impl::Remove(std::span<const BlockName> names) {
  const MutexLock lock(mutex_);
  STEM_TRY(Recover());
  const absl::Status status = RemoveAll(names);
  return status.ok() ? status : Failed(status);
}

absl::Status RocksSpillStore::Impl::Read(SpillRead& read) {
  STEM_TRY(ValidateSpillRead(read));
  const SpillKey key = EncodeSpillKey(read.name);
  rocksdb::PinnableSlice value;
  const rocksdb::Status found = db_->Get(rocksdb::ReadOptions(), families_[kPayload], AsSlice(key), &value);
  STEM_TRY(FromRocks(found, absl::StrCat("read of block ", read.name.key.ToHex())));
  STEM_ASSIGN(const SpillRecordView record, ParseSpillRecord(AsBytes(value), read.name));
  if (record.payload.size() != read.payload.size()) {
    return absl::DataLossError(absl::StrCat("spill record ", read.name.key.ToHex(), ": payload of ",
                                            record.payload.size(), " bytes, expected ", read.payload.size()));
  }
  std::memcpy(read.chunk_hashes.data(), record.chunk_hash_bytes.data(), record.chunk_hash_bytes.size());
  std::memcpy(read.payload.data(), record.payload.data(), record.payload.size());
  read.meta = record.meta;
  return absl::OkStatus();
}

void RocksSpillStore::Impl::Get(SpillRead& read) {
  read.status = Read(read);
  if (read.status.ok()) {
    reads_.fetch_add(1, std::memory_order_relaxed);
    read_bytes_.fetch_add(read.payload.size(), std::memory_order_relaxed);
  } else if (absl::IsDataLoss(read.status)) {
    corrupt_records_.fetch_add(1, std::memory_order_relaxed);
  }
}

absl::Status RocksSpillStore::Impl::ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  options.readahead_size = 2 << 20;
  const std::unique_ptr<rocksdb::Iterator> entry(db_->NewIterator(options, families_[kMeta]));
  for (entry->SeekToFirst(); entry->Valid(); entry->Next()) {
    const absl::StatusOr<BlockName> name = ParseSpillKey(AsBytes(entry->key()));
    const absl::StatusOr<BlockMeta> meta =
        name.ok() ? ParseSpillHeader(AsBytes(entry->value()), *name) : absl::StatusOr<BlockMeta>(name.status());
    if (meta.ok()) {
      visit(*meta);
    } else {
      corrupt_records_.fetch_add(1, std::memory_order_relaxed);
    }
  }
  return FromRocks(entry->status(), "read of the index");
}

uint64_t RocksSpillStore::Impl::Property(size_t family, const std::string& name) const {
  uint64_t value = 0;
  return db_->GetIntProperty(families_[family], name, &value) ? value : 0;
}

uint64_t RocksSpillStore::Impl::DiskBytes() const {
  return Property(kPayload, rocksdb::DB::Properties::kTotalBlobFileSize) +
         Property(kPayload, rocksdb::DB::Properties::kTotalSstFilesSize) +
         Property(kMeta, rocksdb::DB::Properties::kTotalSstFilesSize);
}

bool RocksSpillStore::Impl::GarbageAbove(double share) const {
  // RocksDB counts garbage only once a compaction has met it, so it is told from what is live. A blob has a header of
  // 32 bytes and its key beside the record.
  const uint64_t used_bytes = live_bytes() + records_.load(std::memory_order_relaxed) * (32 + kSpillKeyBytes);
  const uint64_t blob_bytes = Property(kPayload, rocksdb::DB::Properties::kLiveBlobFileSize);
  return blob_bytes > used_bytes && WorthCollecting(blob_bytes - used_bytes, blob_bytes, share);
}

absl::Status RocksSpillStore::Impl::Compact(rocksdb::BlobGarbageCollectionPolicy policy, double cutoff) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  options.blob_garbage_collection_policy = policy;
  options.blob_garbage_collection_age_cutoff = cutoff;
  return FromRocks(db_->CompactRange(options, families_[kPayload], nullptr, nullptr), "collect garbage");
}

absl::StatusOr<bool> RocksSpillStore::Impl::CollectOneRound() {
  if (!GarbageAbove(kGarbageShareMax)) return false;
  // First the index alone: it tells each file's garbage, and files without a live record go without any copying.
  const uint64_t files_before = Property(kPayload, rocksdb::DB::Properties::kNumBlobFiles);
  STEM_TRY(Compact(rocksdb::BlobGarbageCollectionPolicy::kDisable, -1));
  const bool dropped = Property(kPayload, rocksdb::DB::Properties::kNumBlobFiles) < files_before;

  rocksdb::ColumnFamilyMetaData family;
  db_->GetColumnFamilyMetaData(families_[kPayload], &family);
  std::vector<BlobFileBytes> files;
  BlobFileBytes sum;
  for (const rocksdb::BlobMetaData& file : family.blob_files) {
    files.push_back({.total_bytes = file.total_blob_bytes, .garbage_bytes = file.garbage_blob_bytes});
    sum.total_bytes += file.total_blob_bytes;
    sum.garbage_bytes += file.garbage_blob_bytes;
  }
  if (!WorthCollecting(sum.garbage_bytes, sum.total_bytes, kGarbageShareMax)) return dropped;
  const size_t count = OldestToCollect(files, directory_->free_bytes() / 2);
  if (count == 0) return dropped;
  // RocksDB wants a share of all files and rounds down, hence half a file more.
  const double cutoff = (static_cast<double>(count) + 0.5) / static_cast<double>(files.size());
  STEM_TRY(Compact(rocksdb::BlobGarbageCollectionPolicy::kForce, std::min(cutoff, 1.0)));
  return true;
}

absl::StatusOr<bool> RocksSpillStore::Impl::CollectGarbage() {
  const MutexLock lock(collect_mutex_);
  return CollectOneRound();
}

SpillStats RocksSpillStore::Impl::stats() const {
  SpillStats stats;
  stats.records = records_.load(std::memory_order_relaxed);
  stats.live_bytes = live_bytes();
  stats.disk_bytes = DiskBytes();
  stats.writes = writes_.load(std::memory_order_relaxed);
  stats.write_bytes = write_bytes_.load(std::memory_order_relaxed);
  stats.reads = reads_.load(std::memory_order_relaxed);
  stats.read_bytes = read_bytes_.load(std::memory_order_relaxed);
  stats.corrupt_records = corrupt_records_.load(std::memory_order_relaxed);
  stats.disk_write_bytes = statistics_->getTickerCount(rocksdb::FLUSH_WRITE_BYTES) +
                           statistics_->getTickerCount(rocksdb::COMPACT_WRITE_BYTES);
  return stats;
}

absl::StatusOr<std::unique_ptr<RocksSpillStore>> RocksSpillStore::Open(const RocksSpillOptions& options) {
  STEM_ASSIGN(std::unique_ptr<SpillDirectory> directory, SpillDirectory::Open(options.directory));
  auto impl = std::make_unique<Impl>(std::move(directory), options.free_bytes_min);
  STEM_TRY(impl->Start());
  return std::unique_ptr<RocksSpillStore>(new RocksSpillStore(std::move(impl)));
}

RocksSpillStore::RocksSpillStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RocksSpillStore::~RocksSpillStore() = default;

absl::Status RocksSpillStore::Put(std::span<const SpillWrite> writes) { return impl_->Put(writes); }

void RocksSpillStore::Get(std::span<SpillRead> reads) {
  for (SpillRead& read : reads) impl_->Get(read);
}

absl::Status RocksSpillStore::Remove(std::span<const BlockName> names) { return impl_->Remove(names); }

absl::Status RocksSpillStore::ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) { return impl_->ForEach(visit); }

absl::StatusOr<bool> RocksSpillStore::CollectGarbage() { return impl_->CollectGarbage(); }

uint64_t RocksSpillStore::bytes_used() const { return impl_->live_bytes(); }

SpillStats RocksSpillStore::stats() const { return impl_->stats(); }

bool RocksSpillStore::direct_io() const { return impl_->directory().direct_io(); }

}  // namespace stem
