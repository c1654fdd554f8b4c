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

}  // namespace

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
  MutexLock lock(memory->mutex_);
  for (const v1::ArenaMap& arena : grant.arenas) {
    STEM_ASSIGN(Mapping mapping, MapGranted(absl::StrCat("arena ", arena.arena()), descriptors[next++], arena.bytes(),
                                            Mapping::Access::kReadOnly));
    memory->arenas_.push_back(std::make_shared<MappedArena>(arena, std::move(mapping), ""));
  }
  return memory;
}

std::vector<v1::ArenaMap> SessionMemory::arenas() const {
  MutexLock lock(mutex_);
  std::vector<v1::ArenaMap> maps;
  maps.reserve(arenas_.size());
  for (const auto& arena : arenas_) maps.push_back(arena->map());
  return maps;
}

std::shared_ptr<const MappedArena> SessionMemory::Find(uint32_t arena) const {
  MutexLock lock(mutex_);
  for (const auto& each : arenas_) {
    if (each->map().arena() == arena) return each;
  }
  STEM_CHECK(false && "the arena was validated");
  return nullptr;
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
  const auto known = std::find_if(arenas_.begin(), arenas_.end(),
                                  [&](const auto& each) { return each->map().arena() == offer.arena().arena(); });
  if (withdrawal) {
    if (known != arenas_.end()) *known = std::make_shared<MappedArena>((*known)->map(), Mapping(), offer.node());
    return false;
  }
  if (known != arenas_.end()) return false;
  const auto is_offered = [](const auto& each) { return each->lent(); };
  if (std::count_if(arenas_.begin(), arenas_.end(), is_offered) >= static_cast<ptrdiff_t>(kOfferedArenasMax)) {
    const auto gone = std::find_if(arenas_.begin(), arenas_.end(), [](const auto& each) { return each->withdrawn(); });
    if (gone == arenas_.end()) return false;
    arenas_.erase(gone);
  }
  arenas_.push_back(std::make_shared<MappedArena>(offer.arena(), std::move(mapping), offer.node()));
  return true;
}

bool SessionMemory::PrefaultSome() {
  std::vector<std::shared_ptr<const MappedArena>> arenas;
  {
    MutexLock lock(mutex_);
    arenas = arenas_;
  }
  for (const auto& arena : arenas) {
    size_t& done = prefaulted_bytes_[arena->map().arena()];
    if (done >= arena->mapping().bytes().size()) continue;
    done = arena->mapping().PrefaultFrom(done);
    return true;
  }
  return false;
}

}  // namespace stem
