#include "storage/spill/spill_index.h"

#include "absl/strings/str_cat.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/statistics.h"
#include "rocksdb/write_batch.h"

namespace stem {
namespace {

rocksdb::Options OptionsFor(bool direct_io, const std::shared_ptr<rocksdb::Statistics>& statistics) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.compression = rocksdb::kNoCompression;  // keys and digests are hashes
  // Merges runs of like size: an entry is written about four times in its life, with levels ten times.
  options.compaction_style = rocksdb::kCompactionStyleUniversal;
  options.write_buffer_size = 64ULL << 20;
  options.max_background_jobs = 2;
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  options.statistics = statistics;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 4 << 20;
  options.max_manifest_file_size = 64 << 20;
  return options;
}

rocksdb::Slice AsSlice(const SpillKey& key) { return {key.data(), key.size()}; }

std::span<const std::byte> AsBytes(const rocksdb::Slice& slice) {
  return std::as_bytes(std::span(slice.data(), slice.size()));
}

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("spill index: ", doing, ": ", status.ToString());
  if (status.IsCorruption() || status.IsPathNotFound()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsInvalidArgument()) return absl::InternalError(message);
  return absl::UnavailableError(message);
}

}  // namespace

SpillIndex::SpillIndex(std::string path, bool direct_io)
    : path_(std::move(path)), direct_io_(direct_io), statistics_(rocksdb::CreateDBStatistics()) {
  statistics_->set_stats_level(rocksdb::StatsLevel::kExceptHistogramOrTimers);
}

SpillIndex::~SpillIndex() {
  if (db_ != nullptr) db_->Close().PermitUncheckedError();  // a removal that is lost comes back as a whole record
}

absl::StatusOr<std::unique_ptr<SpillIndex>> SpillIndex::Open(const std::string& path, bool direct_io) {
  std::unique_ptr<SpillIndex> index(new SpillIndex(path, direct_io));
  STEM_TRY(index->OpenDatabase(false));
  return index;
}

absl::Status SpillIndex::OpenDatabase(bool merge) {
  rocksdb::DB* db = nullptr;
  rocksdb::Options options = OptionsFor(direct_io_, statistics_);
  options.disable_auto_compactions = !merge;
  STEM_TRY(FromRocks(rocksdb::DB::Open(options, path_, &db), absl::StrCat("open ", path_)));
  db_.reset(db);
  return absl::OkStatus();
}

absl::Status SpillIndex::ForEach(
    absl::FunctionRef<void(const BlockName&, const absl::StatusOr<SpillRecord>&)> visit) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  options.readahead_size = 4 << 20;
  const std::unique_ptr<rocksdb::Iterator> entry(db_->NewIterator(options));
  for (entry->SeekToFirst(); entry->Valid(); entry->Next()) {
    const absl::StatusOr<BlockName> name = ParseSpillKey(AsBytes(entry->key()));
    if (!name.ok()) {
      visit(BlockName{}, name.status());
    } else {
      visit(*name, ParseSpillRecord(AsBytes(entry->value()), *name));
    }
  }
  STEM_TRY(FromRocks(entry->status(), "read"));
  return FromRocks(db_->EnableAutoCompaction({db_->DefaultColumnFamily()}), "start of merging");
}

uint64_t SpillIndex::entries() const {
  uint64_t entries = 0;
  return db_->GetIntProperty(rocksdb::DB::Properties::kEstimateNumKeys, &entries) ? entries : 0;
}

absl::Status SpillIndex::Write(std::span<const SpillRecord> records, std::span<const BlockName> removals,
                               Durable durable) {
  if (db_ == nullptr) return absl::UnavailableError(absl::StrCat("spill index: ", path_, " is not open"));
  rocksdb::WriteBatch batch;
  for (const BlockName& name : removals) {
    STEM_TRY(FromRocks(batch.Delete(AsSlice(EncodeSpillKey(name))), "add to batch"));
  }
  for (const SpillRecord& record : records) {
    STEM_TRY(FromRocks(batch.Put(AsSlice(EncodeSpillKey(record.meta.name)), EncodeSpillRecord(record)), "add to batch"));
  }
  rocksdb::WriteOptions options;
  options.sync = durable == Durable::kNow;
  return FromRocks(db_->Write(options, &batch), "write");
}

absl::Status SpillIndex::Sync() {
  if (db_ == nullptr) return absl::UnavailableError(absl::StrCat("spill index: ", path_, " is not open"));
  return FromRocks(db_->SyncWAL(), "flush of the log");
}

absl::Status SpillIndex::Reopen() {
  if (db_ != nullptr) db_->Close().PermitUncheckedError();
  db_.reset();
  return OpenDatabase(true);
}

absl::Status SpillIndex::Clear() {
  db_.reset();
  STEM_TRY(FromRocks(rocksdb::DestroyDB(path_, OptionsFor(direct_io_, nullptr)), absl::StrCat("clear ", path_)));
  return OpenDatabase(true);
}

uint64_t SpillIndex::write_bytes() const {
  return statistics_->getTickerCount(rocksdb::WAL_FILE_BYTES) + statistics_->getTickerCount(rocksdb::FLUSH_WRITE_BYTES) +
         statistics_->getTickerCount(rocksdb::COMPACT_WRITE_BYTES);
}

}  // namespace stem
