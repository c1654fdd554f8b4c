#include "client/session_memory.h"

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
    : spec_(spec), space_(grant.space), arenas_(grant.arenas), allocator_(grant.staging_bytes) {}

absl::StatusOr<std::shared_ptr<SessionMemory>> SessionMemory::Map(const NamespaceSpec& spec, const AttachGrant& grant,
                                                                  std::vector<UniqueFd> descriptors) {
  std::shared_ptr<SessionMemory> memory(new SessionMemory(spec, grant));
  size_t next = 0;
  if (grant.staging_bytes > 0) {
    STEM_ASSIGN(memory->staging_,
                MapGranted("staging", descriptors[next++], grant.staging_bytes, Mapping::Access::kReadWrite));
  }
  for (const v1::ArenaMap& arena : grant.arenas) {
    STEM_ASSIGN(Mapping mapping, MapGranted(absl::StrCat("arena ", arena.arena()), descriptors[next++], arena.bytes(),
                                            Mapping::Access::kReadOnly));
    memory->mappings_.push_back(std::move(mapping));
  }
  return memory;
}

bool SessionMemory::PrefaultSome() {
  if (prefaulted_mappings_ == mappings_.size()) return false;
  const Mapping& mapping = mappings_[prefaulted_mappings_];
  prefaulted_bytes_ = mapping.PrefaultFrom(prefaulted_bytes_);
  if (prefaulted_bytes_ == mapping.bytes().size()) {
    ++prefaulted_mappings_;
    prefaulted_bytes_ = 0;
  }
  return true;
}

uint32_t SessionMemory::ArenaIndex(uint32_t arena) const {
  for (uint32_t index = 0; index < arenas_.size(); ++index) {
    if (arenas_[index].arena() == arena) return index;
  }
  STEM_CHECK(false && "the arena was validated");
  return 0;
}

SlotView<const std::byte> SessionMemory::slot(uint32_t arena_index, uint32_t slot) const {
  const v1::ArenaMap& arena = arenas_[arena_index];
  const std::span<const std::byte> bytes = mappings_[arena_index].bytes();
  return {bytes.subspan(slot * arena.slot_bytes(), arena.slot_bytes()),
          SlotGeometry{.payload_offset = arena.payload_offset(), .slot_bytes = arena.slot_bytes()}};
}

}  // namespace stem
