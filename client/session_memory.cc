#include "client/session_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

absl::StatusOr<Mapping> MapGranted(absl::string_view what, const UniqueFd& descriptor, uint64_t bytes,
                                   Mapping::Access access) {
  absl::StatusOr<Mapping> mapping = Mapping::Create(descriptor.get(), bytes, access);
  if (mapping.ok() || absl::IsResourceExhausted(mapping.status())) return mapping;
  return absl::InternalError(absl::StrCat("the node's ", what, ": ", mapping.status().message()));
}

absl::StatusOr<MappedArena::ShownSlots> ShownSlotsOf(const v1::ArenaMap& arena, const UniqueFd& descriptor) {
  const std::string what = absl::StrCat("slot map of arena ", arena.arena());
  STEM_ASSIGN(Mapping mapping, MapGranted(what, descriptor, arena.slot_map_bytes(), Mapping::Access::kReadOnly));
  const absl::StatusOr<SlotMap> map = SlotMap::Over(mapping.bytes(), static_cast<uint32_t>(arena.bytes() / arena.slot_bytes()));
  if (!map.ok()) return absl::InternalError(absl::StrCat("the node's ", what, ": ", map.status().message()));
  return MappedArena::ShownSlots{.mapping = std::move(mapping), .map = *map};
}

}  // namespace

std::optional<SlotMap::Place> MappedArena::Find(const BlockName& name) const {
  if (!shown_.has_value()) return std::nullopt;
  return shown_->map.Find(name, [&](const SlotMap::Place& place) {
    const SlotHeader header = slot(place.slot).header();
    return header.name == name && header.generation == place.generation;
  });
}

SessionMemory::SessionMemory(const NamespaceSpec& spec, const AttachGrant& grant)
    : spec_(spec), space_(grant.space), allocator_(grant.staging_bytes) {}

absl::StatusOr<std::shared_ptr<SessionMemory>> SessionMemory::Map(const NamespaceSpec& spec, const AttachGrant& grant,
                                                                  std::vector<UniqueFd> descriptors) {
  std::shared_ptr<SessionMemory> memory(new SessionMemory(spec, grant));
  size_t next = 0;
  if (grant.staging_bytes > 0) {
    STEM_ASSIGN(memory->staging_,
                MapGranted("staging", descriptors[next++], grant.staging_bytes, Mapping::Access::kReadWrite));
  }
  std::vector<std::shared_ptr<const MappedArena>> mapped;
  for (const v1::ArenaMap& arena : grant.arenas) {
    STEM_ASSIGN(Mapping mapping, MapGranted(absl::StrCat("arena ", arena.arena()), descriptors[next++], arena.bytes(),
                                            Mapping::Access::kReadOnly));
    std::optional<MappedArena::ShownSlots> shown;
    if (arena.slot_map_bytes() > 0) {
      STEM_ASSIGN(shown, ShownSlotsOf(arena, descriptors[next++]));
    }
    mapped.push_back(std::make_shared<MappedArena>(arena, std::move(mapping), "", std::move(shown)));
  }
  MutexLock lock(memory->mutex_);
  memory->Replace(std::move(mapped));
  return memory;
}

const std::shared_ptr<const MappedArena>& SessionMemory::Arenas::Find(uint32_t arena) const {
  const auto found = std::find_if(mapped.begin(), mapped.end(), [&](const auto& each) { return each->map().arena() == arena; });
  STEM_CHECK(found != mapped.end() && "the arena was validated");
  return *found;
}

std::shared_ptr<const SessionMemory::Arenas> SessionMemory::arenas() const {
  MutexLock lock(mutex_);
  return arenas_;
}

void SessionMemory::Replace(std::vector<std::shared_ptr<const MappedArena>> mapped) {
  auto arenas = std::make_shared<Arenas>();
  for (const auto& each : mapped) arenas->maps.push_back(each->map());
  arenas->mapped = std::move(mapped);
  arenas_ = std::move(arenas);
}

absl::StatusOr<bool> SessionMemory::Take(const v1::ArenaOffer& offer, std::vector<UniqueFd> descriptors) {
  STEM_TRY(ValidateArenaOffer(offer, spec_, descriptors.size()));
  const bool withdrawal = offer.arena().bytes() == 0;
  Mapping mapping;
  if (!withdrawal) {
    STEM_ASSIGN(mapping, MapGranted(absl::StrCat("offer of node ", offer.node(), "'s arena"), descriptors.front(),
                                    offer.arena().bytes(), Mapping::Access::kReadOnly));
  }
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<const MappedArena>> mapped = arenas_->mapped;
  const auto known = std::find_if(mapped.begin(), mapped.end(),
                                  [&](const auto& each) { return each->map().arena() == offer.arena().arena(); });
  if (withdrawal) {
    if (known == mapped.end()) return false;
    *known = std::make_shared<MappedArena>((*known)->map(), Mapping(), offer.node());
    Replace(std::move(mapped));
    return false;
  }
  if (known != mapped.end()) return false;
  const auto is_offered = [](const auto& each) { return each->lent(); };
  if (std::count_if(mapped.begin(), mapped.end(), is_offered) >= static_cast<ptrdiff_t>(kOfferedArenasMax)) {
    const auto gone = std::find_if(mapped.begin(), mapped.end(), [](const auto& each) { return each->withdrawn(); });
    if (gone == mapped.end()) return false;
    mapped.erase(gone);
  }
  mapped.push_back(std::make_shared<MappedArena>(offer.arena(), std::move(mapping), offer.node()));
  Replace(std::move(mapped));
  return true;
}

bool SessionMemory::PrefaultSome() {
  const auto some_of = [](const Mapping& mapping, size_t& done) {
    if (done >= mapping.bytes().size()) return false;
    done = mapping.PrefaultFrom(done);
    return true;
  };
  const std::shared_ptr<const Arenas> now = arenas();
  for (const auto& arena : now->mapped) {
    PrefaultedBytes& done = prefaulted_[arena->map().arena()];
    if (arena->slot_map_memory() != nullptr && some_of(*arena->slot_map_memory(), done.slot_map)) return true;
    if (some_of(arena->mapping(), done.arena)) return true;
  }
  return false;
}

}  // namespace stem
