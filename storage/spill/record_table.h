// What is on disk, in memory: a read finds its payload with one look here and one request to the disk, and a restart
// reads the index once. About 150 bytes a record.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "storage/spill/record.h"

namespace stem {

// Cut into shards, so that a growing one (which moves all of its records) keeps nobody waiting for long.
// Threads: any.
class RecordTable {
 public:
  std::optional<SpillRecord> Find(const BlockName& name) const;

  // Enters `record`; returns the one of the same name that it replaces.
  std::optional<SpillRecord> Replace(const SpillRecord& record);

  std::optional<SpillRecord> Erase(const BlockName& name);

  // Visits copies, a shard at a time and without a lock.
  void ForEach(absl::FunctionRef<void(const SpillRecord&)> visit) const;

  // Room for about so many, so that a restart moves none of them twice.
  void Reserve(uint64_t records);

 private:
  struct NameHash {
    using is_transparent = void;
    size_t operator()(const BlockName& name) const { return absl::HashOf(name); }
    size_t operator()(const SpillRecord& record) const { return absl::HashOf(record.meta.name); }
  };
  struct SameName {
    using is_transparent = void;
    static const BlockName& Of(const BlockName& name) { return name; }
    static const BlockName& Of(const SpillRecord& record) { return record.meta.name; }
    bool operator()(const auto& a, const auto& b) const { return Of(a) == Of(b); }
  };
  struct Shard {
    mutable Mutex mutex;
    absl::flat_hash_set<SpillRecord, NameHash, SameName> records ABSL_GUARDED_BY(mutex);
  };
  static constexpr size_t kShards = 256;

  const Shard& ShardOf(const BlockName& name) const { return shards_[name.key.high % kShards]; }
  Shard& ShardOf(const BlockName& name) { return shards_[name.key.high % kShards]; }

  std::array<Shard, kShards> shards_;
};

}  // namespace stem
