#include "storage/spill/record_table.h"

#include <vector>

namespace stem {

std::optional<SpillRecord> RecordTable::Find(const BlockName& name) const {
  const Shard& shard = ShardOf(name);
  const MutexLock lock(shard.mutex);
  const auto found = shard.records.find(name);
  if (found == shard.records.end()) return std::nullopt;
  return *found;
}

std::optional<SpillRecord> RecordTable::Replace(const SpillRecord& record) {
  Shard& shard = ShardOf(record.meta.name);
  const MutexLock lock(shard.mutex);
  const auto [place, entered] = shard.records.insert(record);
  if (entered) return std::nullopt;
  std::optional<SpillRecord> replaced = *place;
  shard.records.erase(place);
  shard.records.insert(record);
  return replaced;
}

std::optional<SpillRecord> RecordTable::Erase(const BlockName& name) {
  Shard& shard = ShardOf(name);
  const MutexLock lock(shard.mutex);
  const auto found = shard.records.find(name);
  if (found == shard.records.end()) return std::nullopt;
  const SpillRecord erased = *found;
  shard.records.erase(found);
  return erased;
}

void RecordTable::ForEach(absl::FunctionRef<void(const SpillRecord&)> visit) const {
  std::vector<SpillRecord> records;
  for (const Shard& shard : shards_) {
    {
      const MutexLock lock(shard.mutex);
      records.assign(shard.records.begin(), shard.records.end());
    }
    for (const SpillRecord& record : records) visit(record);
  }
}

void RecordTable::Reserve(uint64_t records) {
  for (Shard& shard : shards_) {
    const MutexLock lock(shard.mutex);
    shard.records.reserve(records / kShards + records / kShards / 8);
  }
}

}  // namespace stem
