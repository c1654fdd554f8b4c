#include "tests/support/memory_spill_store.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace stem {

absl::Status MemorySpillStore::Put(std::span<const SpillWrite> writes) {
  STEM_TRY(ValidateSpillWrites(writes));
  const MutexLock lock(mutex_);
  uint64_t needed_bytes = 0;
  for (const SpillWrite& write : writes) {
    needed_bytes += SpillRecordBytes(write.meta.length);
    Erase(write.meta.name);
  }
  const uint64_t free_bytes = capacity_bytes_ - stats_.live_bytes;
  if (needed_bytes > free_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("disk full in memory: needs ", needed_bytes, " bytes, ", free_bytes, " free"));
  }
  for (const SpillWrite& write : writes) {
    records_[write.meta.name] = {write.meta, {write.payload.begin(), write.payload.end()}};
    stats_.write_bytes += write.meta.length;
  }
  stats_.records = records_.size();
  stats_.live_bytes += needed_bytes;
  stats_.writes += writes.size();
  stats_.disk_write_bytes += needed_bytes;
  return absl::OkStatus();
}

absl::Status MemorySpillStore::Read(SpillRead& read) {
  STEM_TRY(ValidateSpillRead(read));
  const auto found = records_.find(read.name);
  if (found == records_.end()) return absl::NotFoundError(absl::StrCat("no spill record ", read.name.key.ToHex()));
  const Record& record = found->second;
  if (record.payload.size() != read.payload.size()) {
    return absl::DataLossError(absl::StrCat("spill record ", read.name.key.ToHex(), ": payload of ",
                                            record.payload.size(), " bytes, expected ", read.payload.size()));
  }
  std::ranges::copy(record.payload, read.payload.begin());
  return ProveSpillRead(read, record.meta);
}

void MemorySpillStore::Get(std::span<SpillRead> reads) {
  const MutexLock lock(mutex_);
  for (SpillRead& read : reads) {
    read.status = Read(read);
    stats_.reads += read.status.ok() ? 1 : 0;
    stats_.read_bytes += read.status.ok() ? read.payload.size() : 0;
    stats_.corrupt_records += absl::IsDataLoss(read.status) ? 1 : 0;
  }
}

void MemorySpillStore::Erase(const BlockName& name) {
  const auto found = records_.find(name);
  if (found == records_.end()) return;
  stats_.live_bytes -= SpillRecordBytes(found->second.meta.length);
  records_.erase(found);
  stats_.records = records_.size();
}

absl::Status MemorySpillStore::Remove(std::span<const SpillRecordId> records) {
  const MutexLock lock(mutex_);
  for (const SpillRecordId& id : records) {
    const auto held = records_.find(id.name);
    if (held != records_.end() && held->second.meta.generation == id.generation) Erase(id.name);
  }
  return absl::OkStatus();
}

absl::Status MemorySpillStore::ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) {
  std::vector<BlockMeta> metas;
  {
    const MutexLock lock(mutex_);
    for (const auto& [name, record] : records_) metas.push_back(record.meta);
  }
  for (const BlockMeta& meta : metas) visit(meta);
  return absl::OkStatus();
}

SpillStats MemorySpillStore::stats() const {
  const MutexLock lock(mutex_);
  SpillStats stats = stats_;
  stats.disk_bytes = stats.live_bytes;
  return stats;
}

}  // namespace stem
