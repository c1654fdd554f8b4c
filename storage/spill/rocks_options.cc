#include "storage/spill/rocks_options.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"
#include "rocksdb/cache.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/listener.h"
#include "rocksdb/statistics.h"
#include "rocksdb/table.h"

namespace stem {
namespace {

constexpr uint64_t kMemtableBytes = 64ULL << 20;    // two write batches: flushes are ours, not RocksDB's
constexpr uint64_t kIndexCacheBytes = 32ULL << 20;  // index blocks only; payloads are never cached here
constexpr uint64_t kBlobFileBytes = 256ULL << 20;   // a flush makes a smaller one; this bounds what collection writes

// Blob files are small (one a flush) and each open one holds a descriptor; half is left for sockets.
int OpenFilesMax() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  return static_cast<int>(std::clamp<uint64_t>(limit.rlim_cur / 2, 64, 65536));
}

// Leaves recovery from a full disk to the store, which knows when it next writes and what to take back. RocksDB's own
// tries every few seconds, and is in the way of DB::Resume() meanwhile.
class NoRecoveryOfItsOwn : public rocksdb::EventListener {
 public:
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status /*error*/,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::ColumnFamilyOptions FamilyOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = kMemtableBytes;
  options.max_write_buffer_number = 4;
  // A flush leaves a file of some 20 KiB: runs of like size are merged, a big one is not rewritten for 20 KiB.
  options.compaction_style = rocksdb::kCompactionStyleUniversal;
  options.level0_file_num_compaction_trigger = 8;
  // Far off: a garbage round keeps the compaction thread for seconds, and small files with filters cost reads little.
  options.level0_slowdown_writes_trigger = 200;
  options.level0_stop_writes_trigger = 400;
  return options;
}

rocksdb::ColumnFamilyOptions PayloadOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options = FamilyOptions(cache);
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.blob_file_size = kBlobFileBytes;
  options.blob_compression_type = rocksdb::kNoCompression;
  // Keys are hashes, so every compaction meets every old file: payloads would be rewritten over and over. Payloads
  // move only in CollectGarbage(), which names the files.
  options.enable_blob_garbage_collection = false;
  return options;
}

}  // namespace

rocksdb::DBOptions SpillDatabaseOptions(bool direct_io) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.atomic_flush = true;  // a record and its index entry become durable together, or neither
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  options.max_background_jobs = 2;  // RocksDB makes that one flush and one compaction
  options.max_open_files = OpenFilesMax();
  options.writable_file_max_buffer_size = 2 << 20;
  options.listeners.push_back(std::make_shared<NoRecoveryOfItsOwn>());
  options.max_bgerror_resume_count = 0;
  options.statistics = rocksdb::CreateDBStatistics();
  options.statistics->set_stats_level(rocksdb::StatsLevel::kExceptHistogramOrTimers);
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  options.info_log_level = rocksdb::InfoLogLevel::WARN_LEVEL;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 4 << 20;
  options.max_manifest_file_size = 64 << 20;
  return options;
}

std::vector<rocksdb::ColumnFamilyDescriptor> SpillFamilies() {
  const std::shared_ptr<rocksdb::Cache> cache = rocksdb::NewLRUCache(kIndexCacheBytes);
  return {{rocksdb::kDefaultColumnFamilyName, FamilyOptions(cache)}, {"payload", PayloadOptions(cache)}};
}

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("spill: ", doing, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption() || status.IsPathNotFound()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsInvalidArgument()) return absl::InternalError(message);
  return absl::UnavailableError(message);
}

}  // namespace stem
