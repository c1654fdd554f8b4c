// Everything that one attach mapped: the node's arenas, read-only, and this client's staging. Lives as long as a stem,
// a view or a reservation that uses it, so the node's death never unmaps what is being read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/staging.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "proto/validate_replies.h"
#include "storage/pool/arena.h"
#include "storage/pool/slot.h"

namespace stem {

// Constant after Map, except for the bytes, which other processes write. Threads: any.
class SessionMemory {
 public:
  // Maps what `grant` names: `descriptors` holds the staging memfd if any was granted, then one per arena.
  // Errors: Internal (a file that is too short or can still shrink), ResourceExhausted (the kernel refuses).
  static absl::StatusOr<std::shared_ptr<SessionMemory>> Map(const NamespaceSpec& spec, const AttachGrant& grant,
                                                            std::vector<UniqueFd> descriptors);

  const NamespaceSpec& spec() const { return spec_; }
  const NamespaceFingerprint& space() const { return space_; }
  // As validated; the index of an arena here is the index that slot() takes.
  const std::vector<v1::ArenaMap>& arenas() const { return arenas_; }
  // Index of the arena with id `arena`, which is one of arenas().
  uint32_t ArenaIndex(uint32_t arena) const;

  // `slot` passed ValidateSlotRun.
  SlotView<const std::byte> slot(uint32_t arena_index, uint32_t slot) const;

  // A share of the work that first reads would cost; false when nothing is left. One thread at a time.
  bool PrefaultSome();

  std::span<std::byte> staging() const { return staging_.bytes(); }
  StagingAllocator& allocator() { return allocator_; }

 private:
  SessionMemory(const NamespaceSpec& spec, const AttachGrant& grant);

  const NamespaceSpec spec_;
  const NamespaceFingerprint space_;
  const std::vector<v1::ArenaMap> arenas_;
  std::vector<Mapping> mappings_;
  Mapping staging_;
  size_t prefaulted_mappings_ = 0;
  size_t prefaulted_bytes_ = 0;  // of the next one
  StagingAllocator allocator_;
};

}  // namespace stem
