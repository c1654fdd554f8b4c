#include "services/node/spaces/space_table.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/validate.h"

namespace stem {
namespace {

// Slots that the spiller keeps free ahead of demand, in bytes: a burst of publishes must not wait for the disk.
constexpr uint64_t kSpillAheadBytes = 64ULL << 20;

uint32_t SpillAheadSlots(uint64_t arena_bytes, const SlotGeometry& geometry) {
  const uint64_t slots = arena_bytes / geometry.slot_bytes;
  return static_cast<uint32_t>(std::clamp<uint64_t>(kSpillAheadBytes / geometry.slot_bytes, 1, std::max<uint64_t>(slots / 8, 1)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SpaceTable>> SpaceTable::Create(Options options, std::vector<uint8_t> cluster_secret) {
  std::unique_ptr<SpaceTable> table(new SpaceTable(std::move(options), std::move(cluster_secret)));
  for (const TrustGroup& group : table->options_.groups) {
    auto memory = std::make_unique<GroupMemory>();
    memory->arena_id = static_cast<uint32_t>(table->memories_.size());
    memory->group = group;
    STEM_ASSIGN(memory->arena, Arena::Create(absl::StrCat("stemcache-", group.name), group.dram_bytes,
                                             Arena::Sharing::kReadOnlyForOthers));
    MutexLock lock(table->mutex_);
    for (const uid_t uid : group.uids) table->memory_of_user_.emplace(uid, memory.get());
    table->memories_.push_back(std::move(memory));
  }
  if (!table->options_.registry_path.empty()) STEM_TRY(table->LoadRegistry());
  return table;
}

absl::StatusOr<GroupMemory*> SpaceTable::MemoryFor(uid_t uid, const std::string& shared_group) const {
  if (!shared_group.empty()) {
    return absl::PermissionDeniedError(absl::StrCat("shared group '", shared_group, "' is not declared on this node"));
  }
  if (const auto it = memory_of_user_.find(uid); it != memory_of_user_.end()) return it->second;
  return absl::PermissionDeniedError(absl::StrCat("user ", uid, " belongs to no trust group of this node; add it with --group NAME=", uid,
                                                  "@BYTES, or to a tenant in etcd"));
}

absl::Status SpaceTable::CheckSettled(const NamespaceSpec& spec, const std::string& owner) const {
  absl::Status refused;
  for (const auto& [name, settled] : settled_) {
    if (settled.owner != owner || settled.spec.model != spec.model) continue;
    const std::vector<std::string> fields = DifferingFields(settled.spec, spec);
    if (fields.empty()) return absl::OkStatus();
    refused = absl::FailedPreconditionError(absl::StrCat("model ", spec.model, " of group ", owner, " is settled as namespace '", name,
                                                         "', which differs: ", absl::StrJoin(fields, ", ")));
  }
  return refused;
}

std::vector<std::string> SpaceTable::Settle(const FleetSnapshot& fleet, bool tenants) {
  MutexLock lock(mutex_);
  settled_ = fleet.namespaces;
  std::vector<std::string> later;
  if (!tenants) return later;
  std::map<uid_t, GroupMemory*> users;
  std::vector<GroupMemory*> gone;
  for (const auto& memory : memories_) {
    const auto it = fleet.tenants.find(memory->group.name);
    if (it == fleet.tenants.end()) {
      gone.push_back(memory.get());
      later.push_back(absl::StrCat("tenant ", memory->group.name, " is gone; its users keep its memory"));
      continue;
    }
    for (const uid_t uid : it->second.uids) users.emplace(uid, memory.get());
    if (it->second.dram_bytes == memory->group.dram_bytes && it->second.ssd_bytes == memory->group.ssd_bytes) continue;
    later.push_back(absl::StrCat("tenant ", it->first, " has other sizes now: ", it->second.dram_bytes, " bytes of DRAM, ",
                                 it->second.ssd_bytes, " of SSD"));
  }
  for (const auto& [uid, memory] : memory_of_user_) {
    if (std::find(gone.begin(), gone.end(), memory) != gone.end()) users.emplace(uid, memory);
  }
  memory_of_user_ = std::move(users);
  for (const auto& [name, tenant] : fleet.tenants) {
    const auto is_it = [&name = name](const auto& memory) { return memory->group.name == name; };
    if (std::none_of(memories_.begin(), memories_.end(), is_it)) later.push_back(absl::StrCat("tenant ", name, " is new"));
  }
  return later;
}

absl::StatusOr<SpaceTable::Registered> SpaceTable::Register(const NamespaceSpec& spec, uid_t uid,
                                                            const std::string& shared_group) {
  MutexLock lock(mutex_);
  STEM_ASSIGN(GroupMemory* const memory, MemoryFor(uid, shared_group));
  STEM_TRY(CheckSettled(spec, memory->group.name));
  Registered registered;
  for (const auto& [fingerprint, space] : spaces_) {
    if (space->memory != memory || space->spec.model != spec.model) continue;
    const std::vector<std::string> fields = DifferingFields(space->spec, spec);
    if (fields.empty()) continue;
    registered.warnings.push_back(absl::StrCat("namespace ", fingerprint.ToHex(), " of model ", spec.model,
                                               " differs and shares nothing with this one: ", absl::StrJoin(fields, ", ")));
  }
  const NamespaceFingerprint fingerprint = FingerprintOf(spec, memory->group.name);
  if (const auto it = spaces_.find(fingerprint); it != spaces_.end()) {
    registered.space = it->second.get();
    return registered;
  }
  STEM_ASSIGN(registered.space, Add(spec, *memory));
  STEM_TRY(SaveRegistry());
  return registered;
}

absl::StatusOr<const Space*> SpaceTable::Add(const NamespaceSpec& spec, GroupMemory& memory) {
  if (spaces_.size() >= kSpacesMax) {
    return absl::ResourceExhaustedError(absl::StrCat("this node knows ", kSpacesMax, " namespaces, its limit"));
  }
  const SlotGeometry geometry = SlotGeometry::For(spec.block_bytes_max());
  if (memory.pool == nullptr) {
    if (geometry.slot_bytes > memory.group.dram_bytes) {
      return absl::FailedPreconditionError(absl::StrCat("a block of ", spec.block_bytes_max(), " bytes does not fit the ",
                                                        memory.group.dram_bytes, " bytes of group ", memory.group.name,
                                                        "; raise --dram"));
    }
    const uint64_t map_bytes = SlotMapLayout(BlockPool::SlotsIn(memory.arena.bytes().size(), geometry)).bytes();
    STEM_ASSIGN(memory.slot_map, Arena::Create(absl::StrCat("stemcache-slots-", memory.group.name), map_bytes,
                                               Arena::Sharing::kReadOnlyForOthers));
    memory.pool = std::make_unique<BlockPool>(
        memory.arena.bytes(), geometry,
        BlockPool::Options{.ssd_bytes_max = SsdQuota(memory),
                           .spill_ahead_slots = SpillAheadSlots(memory.group.dram_bytes, geometry),
                           .policy = options_.policy,
                           .admission = options_.admission,
                           .on_change = options_.on_change,
                           .on_leave = options_.on_leave,
                           .slot_map = memory.slot_map->bytes()});
    // A quota that does not hold one slot of these blocks leaves the pool as it is.
    (void)memory.pool->SetQuota(memory.dram_bytes_max, 0);
  } else if (spec.block_bytes_max() > memory.pool->geometry().block_bytes_max()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a block of ", spec.block_bytes_max(), " bytes does not fit the slots of group ", memory.group.name,
                     ", cut for blocks of ", memory.pool->geometry().block_bytes_max(),
                     " bytes by its first namespace; use smaller blocks or another group"));
  }
  auto space = std::make_unique<Space>();
  space->spec = spec;
  space->fingerprint = FingerprintOf(spec, memory.group.name);
  space->root = RootOf(cluster_secret_, memory.group.name, space->fingerprint);
  space->probe_key = ProbeKeyOf(cluster_secret_, memory.group.name);
  space->memory = &memory;
  space->number = static_cast<uint32_t>(spaces_.size());
  const Space* const added = space.get();
  spaces_[added->fingerprint] = std::move(space);
  if (options_.on_space) options_.on_space(*added);
  return added;
}

absl::StatusOr<const GroupMemory*> SpaceTable::MemoryOf(uid_t uid) const {
  MutexLock lock(mutex_);
  return MemoryFor(uid, /*shared_group=*/"");
}

const Space* SpaceTable::Find(const NamespaceFingerprint& fingerprint) const {
  MutexLock lock(mutex_);
  const auto it = spaces_.find(fingerprint);
  return it == spaces_.end() ? nullptr : it->second.get();
}

std::vector<const Space*> SpaceTable::All() const {
  std::vector<const Space*> all;
  {
    MutexLock lock(mutex_);
    for (const auto& [fingerprint, space] : spaces_) all.push_back(space.get());
  }
  std::stable_sort(all.begin(), all.end(), [](const Space* a, const Space* b) { return a->spec.model < b->spec.model; });
  return all;
}

uint64_t SpaceTable::SsdQuota(const GroupMemory& memory) const {
  if (memory.ssd_bytes_max > 0) return memory.ssd_bytes_max;
  if (memory.group.ssd_bytes > 0) return std::min(memory.group.ssd_bytes, options_.ssd_bytes);
  uint64_t dram_bytes = 0;
  for (const TrustGroup& group : options_.groups) dram_bytes += group.dram_bytes;
  const double share = static_cast<double>(memory.group.dram_bytes) / static_cast<double>(dram_bytes);
  return static_cast<uint64_t>(static_cast<double>(options_.ssd_bytes) * share);
}

SpaceTable::Quota SpaceTable::QuotaOf(const GroupMemory& memory) const {
  MutexLock lock(mutex_);
  return QuotaLocked(memory);
}

SpaceTable::Quota SpaceTable::QuotaLocked(const GroupMemory& memory) const {
  return {.dram_bytes = memory.dram_bytes_max > 0 ? memory.dram_bytes_max : memory.group.dram_bytes, .ssd_bytes = SsdQuota(memory)};
}

absl::StatusOr<SpaceTable::Quota> SpaceTable::SetQuota(const std::string& group, const Quota& quota) {
  BlockPool* pool = nullptr;
  STEM_ASSIGN(const Quota set, StoreQuota(group, quota, &pool));
  while (pool != nullptr && pool->EvictOverQuota()) {
  }
  return set;
}

absl::StatusOr<SpaceTable::Quota> SpaceTable::StoreQuota(const std::string& group, const Quota& quota, BlockPool** pool) {
  MutexLock lock(mutex_);
  const auto it = std::find_if(memories_.begin(), memories_.end(), [&](const auto& memory) { return memory->group.name == group; });
  if (it == memories_.end()) return absl::NotFoundError(absl::StrCat("no trust group '", group, "' on this node"));
  GroupMemory& memory = **it;
  if (quota.dram_bytes > memory.group.dram_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("a DRAM quota of ", quota.dram_bytes, " bytes; the arena of group ", group, " has ",
                                                   memory.group.dram_bytes));
  }
  uint64_t others = 0;
  for (const auto& other : memories_) others += other.get() == &memory ? 0 : SsdQuota(*other);
  if (quota.ssd_bytes > 0 && quota.ssd_bytes > options_.ssd_bytes - std::min(options_.ssd_bytes, others)) {
    return absl::InvalidArgumentError(absl::StrCat("an SSD quota of ", quota.ssd_bytes, " bytes; the node has ", options_.ssd_bytes,
                                                   ", other groups ", others, " of it"));
  }
  if (memory.pool != nullptr) STEM_TRY(memory.pool->SetQuota(quota.dram_bytes, quota.ssd_bytes));
  if (quota.dram_bytes > 0) memory.dram_bytes_max = quota.dram_bytes;
  if (quota.ssd_bytes > 0) memory.ssd_bytes_max = quota.ssd_bytes;
  *pool = memory.pool.get();
  return QuotaLocked(memory);
}

std::vector<BlockPool*> SpaceTable::pools() const {
  MutexLock lock(mutex_);
  std::vector<BlockPool*> pools;
  for (const auto& memory : memories_) {
    if (memory->pool != nullptr) pools.push_back(memory->pool.get());
  }
  return pools;
}

absl::Status SpaceTable::LoadRegistry() {
  std::ifstream in(options_.registry_path, std::ios::binary);
  if (!in) return absl::OkStatus();  // a first start
  const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  v1::NamespaceRegistry registry;
  if (!registry.ParseFromString(bytes)) {
    return absl::DataLossError(absl::StrCat(options_.registry_path, " is damaged; remove it (its namespaces register again, "
                                            "spilled blocks of unknown namespaces are dropped)"));
  }
  MutexLock lock(mutex_);
  for (const v1::NamespaceRegistry::Entry& entry : registry.entries()) {
    STEM_ASSIGN(const NamespaceSpec spec, ValidateSpec(entry.namespace_()));
    for (const auto& memory : memories_) {
      // A namespace that no longer fits (another configuration) is simply not remembered.
      if (memory->group.name == entry.group()) (void)Add(spec, *memory).status();
    }
  }
  return absl::OkStatus();
}

absl::Status SpaceTable::SaveRegistry() {
  if (options_.registry_path.empty()) return absl::OkStatus();
  v1::NamespaceRegistry registry;
  for (const auto& [fingerprint, space] : spaces_) {
    v1::NamespaceRegistry::Entry* const entry = registry.add_entries();
    *entry->mutable_namespace_() = ToMessage(space->spec);
    entry->set_group(space->memory->group.name);
  }
  const std::string temporary = absl::StrCat(options_.registry_path, ".new");
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << registry.SerializeAsString();
    out.flush();
    if (!out) return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
  }
  if (std::rename(temporary.c_str(), options_.registry_path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot replace ", options_.registry_path));
  }
  return absl::OkStatus();
}

}  // namespace stem
