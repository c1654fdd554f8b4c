#include "storage/spill/disk_spill_store.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/spill/payload_pieces.h"
#include "storage/spill/stem_order.h"

namespace stem {
namespace {

constexpr uint64_t kGrowPages = (64ULL << 20) / kSpillPageBytes;  // at a time
constexpr uint64_t kIndexSlackBytes = 1 << 20;                    // file ends, manifest
constexpr size_t kReaders = 16;                                   // fills a disk with requests of 64 KiB (spill_bench)
constexpr size_t kWriters = 7;                                    // beside the one who puts
constexpr uint64_t kReadPagesMax = (512 << 10) / kSpillPageBytes;  // of neighbours in one request; leaves depth for others
constexpr uint64_t kWritePagesMax = (1 << 20) / kSpillPageBytes;  // of one request
constexpr uint64_t kWavePagesMax = (4 << 20) / kSpillPageBytes;   // of requests at once; after each wave reads get their turn
constexpr size_t kPiecesMax = 512;                                // of one request
constexpr std::chrono::milliseconds kReadersTurnMax(50);          // after a wave; the lock is held meanwhile

}  // namespace

DiskSpillStore::DiskSpillStore(const DiskSpillOptions& options, std::unique_ptr<SpillDirectory> directory,
                               std::unique_ptr<SpillIndex> index, std::unique_ptr<PayloadFile> file)
    : options_(options),
      directory_(std::move(directory)),
      file_(std::move(file)),
      index_(std::move(index)),
      readers_(kReaders),
      writers_(kWriters) {}

DiskSpillStore::~DiskSpillStore() = default;

absl::StatusOr<std::unique_ptr<DiskSpillStore>> DiskSpillStore::Open(const DiskSpillOptions& options) {
  STEM_ASSIGN(std::unique_ptr<SpillDirectory> directory, SpillDirectory::Open(options.directory));
  const bool direct_io = directory->direct_io();
  absl::StatusOr<std::unique_ptr<SpillIndex>> index = SpillIndex::Open(directory->index_path(), direct_io);
  if (absl::IsDataLoss(index.status())) {
    return absl::DataLossError(absl::StrCat("spill directory ", directory->path(), " is damaged (",
                                            index.status().message(), "); delete it to start cold"));
  }
  STEM_TRY(index.status());
  STEM_ASSIGN(std::unique_ptr<PayloadFile> file, PayloadFile::Open(directory->payload_path(), direct_io));
  std::unique_ptr<DiskSpillStore> store(
      new DiskSpillStore(options, std::move(directory), *std::move(index), std::move(file)));
  const MutexLock lock(store->mutex_);
  STEM_TRY(store->Load());
  return store;
}

// ---- Books --------------------------------------------------------------------------------------------------------------

void DiskSpillStore::Enter(const SpillRecord& record) {
  live_bytes_.fetch_add(SpillRecordBytes(record.meta.length), std::memory_order_relaxed);
  live_pages_.fetch_add(SpillPages(record.meta.length), std::memory_order_relaxed);
  records_.fetch_add(1, std::memory_order_relaxed);
  if (const std::optional<SpillRecord> old = table_.Replace(record); old.has_value()) {
    live_bytes_.fetch_sub(SpillRecordBytes(old->meta.length), std::memory_order_relaxed);
    live_pages_.fetch_sub(SpillPages(old->meta.length), std::memory_order_relaxed);
    records_.fetch_sub(1, std::memory_order_relaxed);
    removed_.insert(removed_.end(), old->extents.begin(), old->extents.end());
  }
}

void DiskSpillStore::Strike(const BlockName& name) {
  const std::optional<SpillRecord> old = table_.Erase(name);
  if (!old.has_value()) return;
  live_bytes_.fetch_sub(SpillRecordBytes(old->meta.length), std::memory_order_relaxed);
  live_pages_.fetch_sub(SpillPages(old->meta.length), std::memory_order_relaxed);
  records_.fetch_sub(1, std::memory_order_relaxed);
  removed_.insert(removed_.end(), old->extents.begin(), old->extents.end());
}

absl::Status DiskSpillStore::Load() {
  map_.Resize(file_->pages());
  table_.Reserve(index_->entries());
  std::vector<BlockName> damaged;
  const auto found = [&](const BlockName& name, const absl::StatusOr<SpillRecord>& record)
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    size_t marked = 0;
    if (record.ok()) {
      while (marked < record->extents.size() && map_.Mark(record->extents[marked])) ++marked;
      if (marked == record->extents.size()) return Enter(*record);
      while (marked > 0) map_.Release(record->extents[--marked]);  // of another record, or behind the file's end
    }
    damaged.push_back(name);
  };
  load_status_ = index_->ForEach(found);
  corrupt_records_.store(damaged.size(), std::memory_order_relaxed);
  if (absl::IsDataLoss(load_status_)) {
    // Entries that cannot be read now may come up later, when their pages are long another's.
    std::vector<SpillRecord> good;
    table_.ForEach([&](const SpillRecord& record) { good.push_back(record); });
    STEM_TRY(index_->Clear());
    STEM_TRY(index_->Write(good, {}, SpillIndex::Durable::kNow));
  } else {
    STEM_TRY(load_status_);
    if (!damaged.empty()) STEM_TRY(index_->Write({}, damaged, SpillIndex::Durable::kNow));
  }
  // A crash leaves what was written and not entered, and room ahead.
  if (map_.end() == map_.pages()) return absl::OkStatus();
  STEM_TRY(file_->Truncate(map_.end()));
  map_.Resize(map_.end());
  return absl::OkStatus();
}

absl::Status DiskSpillStore::ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) {
  table_.ForEach([&](const SpillRecord& record) { visit(record.meta); });
  return load_status_;
}

SpillStats DiskSpillStore::stats() const {
  SpillStats stats;
  stats.records = records_.load(std::memory_order_relaxed);
  stats.live_bytes = live_bytes_.load(std::memory_order_relaxed);
  stats.disk_bytes = file_->pages() * kSpillPageBytes;
  const uint64_t live_file_bytes = live_pages_.load(std::memory_order_relaxed) * kSpillPageBytes;
  stats.free_bytes = stats.disk_bytes - std::min(stats.disk_bytes, live_file_bytes);
  stats.writes = writes_.load(std::memory_order_relaxed);
  stats.write_bytes = write_bytes_.load(std::memory_order_relaxed);
  stats.reads = reads_.load(std::memory_order_relaxed);
  stats.read_bytes = read_bytes_.load(std::memory_order_relaxed);
  stats.corrupt_records = corrupt_records_.load(std::memory_order_relaxed);
  stats.disk_write_bytes = file_->write_bytes() + index_->write_bytes();
  return stats;
}

// ---- Writing ------------------------------------------------------------------------------------------------------------

absl::Status DiskSpillStore::Failed(std::span<const BlockName> names, const absl::Status& cause) {
  failed_ = true;
  for (const BlockName& name : names) {
    Strike(name);
    undo_.push_back(name);
  }
  return cause;
}

absl::Status DiskSpillStore::Recover() {
  if (!failed_) return absl::OkStatus();
  STEM_TRY(index_->Reopen());
  STEM_TRY(index_->Write({}, undo_, SpillIndex::Durable::kNow));
  undo_.clear();
  failed_ = false;
  return absl::OkStatus();
}

void DiskSpillStore::ReleaseRemoved() {
  for (const Extent& extent : removed_) map_.Release(extent);
  removed_.clear();
  undo_.clear();
}

absl::Status DiskSpillStore::RequireRoom(uint64_t pages, size_t records) {
  const uint64_t growth_bytes = (pages - std::min(pages, map_.free_pages())) * kSpillPageBytes;
  // A file that an earlier process let grow further is used as it is.
  if (growth_bytes > 0 && map_.pages() * kSpillPageBytes + growth_bytes > options_.file_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("spill file at ", directory_->path(), " is full: needs ",
                                                     pages * kSpillPageBytes, " bytes, ",
                                                     map_.free_pages() * kSpillPageBytes, " free, may have ",
                                                     options_.file_bytes_max));
  }
  const uint64_t needed_bytes = growth_bytes + records * kSpillEntryBytes + kIndexSlackBytes;
  const uint64_t free_bytes = directory_->free_bytes();
  if (free_bytes >= needed_bytes && free_bytes - needed_bytes >= options_.free_bytes_min) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("disk full at ", directory_->path(), ": needs ", needed_bytes,
                                                   " bytes beside the ", options_.free_bytes_min, " kept free, ",
                                                   free_bytes, " free"));
}

absl::Status DiskSpillStore::Grow(uint64_t pages) {
  const uint64_t free_bytes = directory_->free_bytes();
  const uint64_t kept_bytes = options_.free_bytes_min + kIndexSlackBytes;
  const uint64_t spare_pages = (free_bytes - std::min(free_bytes, kept_bytes)) / kSpillPageBytes;
  const uint64_t pages_max = options_.file_bytes_max / kSpillPageBytes;
  const uint64_t wanted = std::min({map_.pages() + std::max(pages, kGrowPages), pages_max, map_.pages() + spare_pages / 2});
  const uint64_t needed = std::min({map_.pages() + pages, pages_max, map_.pages() + spare_pages});
  const uint64_t grown = std::max(wanted, needed);
  if (grown <= map_.pages()) return absl::ResourceExhaustedError("the file has its full size");
  if (absl::Status status = file_->Grow(grown); !status.ok()) {
    if (grown == needed) return status;
    STEM_TRY(file_->Grow(needed));
  }
  map_.Resize(file_->pages());
  return absl::OkStatus();
}

absl::StatusOr<Extents> DiskSpillStore::TakePages(uint32_t pages) {
  if (const std::optional<Extent> extent = map_.Take(pages)) return Extents{*extent};
  if (Grow(pages).ok()) {
    if (const std::optional<Extent> extent = map_.Take(pages)) return Extents{*extent};
  }
  if (map_.free_pages() >= pages) {
    if (const std::optional<Extents> pieces = map_.TakePieces(pages)) return *pieces;
  }
  return absl::ResourceExhaustedError(absl::StrCat("disk full at ", directory_->path(), ": needs a place for ",
                                                   pages * kSpillPageBytes, " bytes, ",
                                                   map_.free_pages() * kSpillPageBytes, " free in the file in pieces"));
}

absl::Status DiskSpillStore::WriteRuns(std::span<WriteRun> runs) {
  while (!runs.empty()) {
    // A few large runs, or many where only small holes were left: at once, as a disk likes it.
    size_t count = 0;
    uint64_t pages = 0;
    while (count < runs.size() && pages < kWavePagesMax) pages += runs[count++].pages;
    std::vector<absl::Status> results(count);
    const auto start = std::chrono::steady_clock::now();
    writers_.Run(count, [&](size_t i) { results[i] = file_->Write(runs[i].page, runs[i].pieces); });
    for (const absl::Status& result : results) STEM_TRY(result);
    // Whoever waits for the disk on a request's behalf goes first: half of the time is left to reads while there are any.
    if (reads_active_.load(std::memory_order_relaxed) > 0) {
      std::this_thread::sleep_for(
          std::min<std::chrono::steady_clock::duration>(std::chrono::steady_clock::now() - start, kReadersTurnMax));
    }
    runs = runs.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status DiskSpillStore::MakeDurable(std::span<const SpillRecord> records) {
  const auto write_entries = [&] { return index_->Write(records, {}, SpillIndex::Durable::kNow); };
  for (const SpillRecord& record : records) {
    if (!table_.Find(record.meta.name).has_value()) continue;
    STEM_TRY(file_->Sync());  // an acknowledged record is replaced only by one that is whole
    return write_entries();
  }
  // Both flushes at once: after a power loss between them there is an entry that nobody was told of, and it fails its proof.
  absl::Status file_status;
  absl::Status index_status;
  writers_.Run(2, [&](size_t i) {
    if (i == 0) {
      file_status = file_->Sync();
    } else {
      index_status = write_entries();
    }
  });
  STEM_TRY(file_status);
  return index_status;
}

absl::Status DiskSpillStore::Place(std::span<const SpillWrite> writes, std::vector<SpillRecord>& records) {
  std::vector<WriteRun> runs;
  std::deque<PagesToWrite> payloads;
  for (const size_t i : StemOrder(writes)) {
    const SpillWrite& write = writes[i];
    STEM_ASSIGN(Extents extents, TakePages(static_cast<uint32_t>(SpillPages(write.meta.length))));
    records.push_back({.meta = write.meta, .extents = std::move(extents)});
    const PagesToWrite& payload = payloads.emplace_back(write.payload);
    uint64_t first = 0;
    for (const Extent& extent : records.back().extents) {
      const uint64_t end = uint64_t{extent.page} + extent.pages;
      for (uint64_t page = extent.page; page < end;) {
        if (runs.empty() || runs.back().page + runs.back().pages != page || runs.back().pages == kWritePagesMax ||
            runs.back().pieces.size() + 2 > kPiecesMax) {
          runs.push_back({.page = page, .pages = 0, .pieces = {}});
        }
        const uint64_t pages = std::min(end - page, kWritePagesMax - runs.back().pages);
        payload.Append(first, pages, runs.back().pieces);
        runs.back().pages += pages;
        first += pages;
        page += pages;
      }
    }
  }
  return WriteRuns(runs);
}

absl::Status DiskSpillStore::Put(std::span<const SpillWrite> writes) {
  STEM_TRY(ValidateSpillWrites(writes));
  std::vector<BlockName> names;
  uint64_t pages = 0;
  uint64_t bytes = 0;
  for (const SpillWrite& write : writes) {
    names.push_back(write.meta.name);
    pages += SpillPages(write.meta.length);
    bytes += write.meta.length;
  }
  const MutexLock lock(mutex_);
  STEM_TRY(Recover());
  // A Put's own flush makes earlier removals durable too; one more is needed only where their room is.
  if (writes.empty() || (!removed_.empty() && map_.free_pages() < pages)) {
    if (const absl::Status synced = index_->Sync(); !synced.ok()) return Failed(names, synced);
    ReleaseRemoved();
  }
  if (writes.empty()) return absl::OkStatus();
  if (const absl::Status room = RequireRoom(pages, writes.size()); !room.ok()) {
    STEM_TRY(Forget(names));
    return room;
  }

  std::vector<SpillRecord> records;
  records.reserve(writes.size());
  absl::Status status = Place(writes, records);
  if (status.ok()) status = MakeDurable(records);
  if (!status.ok()) {
    for (const SpillRecord& record : records) removed_.insert(removed_.end(), record.extents.begin(), record.extents.end());
    return Failed(names, status);
  }
  for (const SpillRecord& record : records) Enter(record);
  ReleaseRemoved();
  writes_.fetch_add(writes.size(), std::memory_order_relaxed);
  write_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status DiskSpillStore::Forget(std::span<const BlockName> names) {
  std::vector<BlockName> held;
  for (const BlockName& name : names) {
    if (table_.Find(name).has_value()) held.push_back(name);
  }
  if (held.empty()) return absl::OkStatus();
  const absl::Status status = index_->Write({}, held, SpillIndex::Durable::kWithTheNextSync);
  if (!status.ok()) return Failed(held, status);
  for (const BlockName& name : held) Strike(name);
  // Until a flush: when that fails, an entry may come back whose pages are given out by then.
  undo_.insert(undo_.end(), held.begin(), held.end());
  return absl::OkStatus();
}

absl::Status DiskSpillStore::Remove(std::span<const SpillRecordId> records) {
  const MutexLock lock(mutex_);
  STEM_TRY(Recover());
  std::vector<BlockName> names;
  for (const SpillRecordId& id : records) {
    const std::optional<SpillRecord> held = table_.Find(id.name);
    if (held.has_value() && held->meta.generation == id.generation) names.push_back(id.name);
  }
  return Forget(names);
}

// ---- Reading ------------------------------------------------------------------------------------------------------------

absl::Status DiskSpillStore::ReadPayload(const SpillRecord& record, std::span<std::byte> payload) const {
  const PagesToFill pages(payload);
  std::vector<iovec> pieces;
  uint64_t first = 0;
  for (const Extent& extent : record.extents) {
    pieces.clear();
    pages.Append(first, extent.pages, pieces);
    STEM_TRY(file_->Read(extent.page, pieces));
    first += extent.pages;
  }
  pages.Finish();
  return absl::OkStatus();
}

void DiskSpillStore::Finish(Find& find, absl::Status status) {
  SpillRead& read = *find.read;
  for (bool again = false;; again = true) {
    if (status.ok()) status = ProveSpillRead(read, find.record.meta);
    if (!absl::IsDataLoss(status)) break;
    // Its pages may have been given to another meanwhile; then the table knows better by now.
    std::optional<SpillRecord> now = table_.Find(read.name);
    if (!now.has_value()) {
      status = absl::NotFoundError(absl::StrCat("spill record ", read.name.key.ToHex(), " was removed meanwhile"));
      break;
    }
    // Twice the same: even one that was removed and put back where it had been is whole by the second time.
    if ((again && *now == find.record) || now->meta.length != read.payload.size()) {
      corrupt_records_.fetch_add(1, std::memory_order_relaxed);
      break;
    }
    find.record = *std::move(now);
    status = ReadPayload(find.record, read.payload);
  }
  if (status.ok()) {
    reads_.fetch_add(1, std::memory_order_relaxed);
    read_bytes_.fetch_add(read.payload.size(), std::memory_order_relaxed);
  }
  read.status = std::move(status);
}

void DiskSpillStore::ReadRun(std::span<Find> run) {
  if (run.size() == 1) return Finish(run[0], ReadPayload(run[0].record, run[0].read->payload));
  std::deque<PagesToFill> payloads;
  std::vector<iovec> pieces;
  for (const Find& find : run) {
    payloads.emplace_back(find.read->payload).Append(0, find.record.extents[0].pages, pieces);
  }
  const absl::Status together = file_->Read(run[0].record.extents[0].page, pieces);
  for (size_t i = 0; i < run.size(); ++i) {
    if (together.ok()) {
      payloads[i].Finish();
      Finish(run[i], absl::OkStatus());
    } else {  // one bad page must not take its neighbours
      Finish(run[i], ReadPayload(run[i].record, run[i].read->payload));
    }
  }
}

void DiskSpillStore::Get(std::span<SpillRead> reads) {
  std::vector<Find> finds;
  finds.reserve(reads.size());
  for (SpillRead& read : reads) {
    read.status = ValidateSpillRead(read);
    if (!read.status.ok()) continue;
    std::optional<SpillRecord> record = table_.Find(read.name);
    if (!record.has_value()) {
      read.status = absl::NotFoundError(absl::StrCat("no spill record ", read.name.key.ToHex()));
    } else if (record->meta.length != read.payload.size()) {
      corrupt_records_.fetch_add(1, std::memory_order_relaxed);
      read.status = absl::DataLossError(absl::StrCat("spill record ", read.name.key.ToHex(), ": payload of ",
                                                     record->meta.length, " bytes, expected ", read.payload.size()));
    } else {
      finds.push_back({&read, *std::move(record)});
    }
  }
  std::sort(finds.begin(), finds.end(),
            [](const Find& a, const Find& b) { return a.record.extents[0].page < b.record.extents[0].page; });

  std::vector<std::span<Find>> runs;
  uint64_t pages = 0;  // of the last run
  for (size_t i = 0; i < finds.size(); ++i) {
    const Extents& extents = finds[i].record.extents;
    const bool neighbour = i > 0 && extents.size() == 1 && finds[i - 1].record.extents.size() == 1 &&
                           finds[i - 1].record.extents[0].page + finds[i - 1].record.extents[0].pages == extents[0].page;
    if (neighbour && pages + extents[0].pages <= kReadPagesMax) {
      runs.back() = {runs.back().data(), runs.back().size() + 1};
      pages += extents[0].pages;
    } else {
      runs.emplace_back(&finds[i], 1);
      pages = extents[0].pages;
    }
  }
  reads_active_.fetch_add(1, std::memory_order_relaxed);
  readers_.Run(runs.size(), [&](size_t i) { ReadRun(runs[i]); });
  reads_active_.fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace stem
