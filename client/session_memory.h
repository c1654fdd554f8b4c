// What one session has mapped: the node's arenas, read-only, those of other nodes of this host that it offered, and this client's
// staging. Lives as long as a stem, a view or a reservation that uses it, so the node's death never unmaps what is being read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "client/staging.h"
#include "proto/mutex.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "proto/validate_replies.h"
#include "storage/pool/arena.h"
#include "storage/pool/slot.h"
#include "storage/pool/slot_map.h"

namespace stem {

// One arena. Its bytes are written by other processes. Immutable; threads: any.
class MappedArena {
 public:
  // What says which of its slots are Ready, and the memory that it lies in.
  struct ShownSlots {
    Mapping mapping;
    SlotMap map;
  };

  MappedArena(v1::ArenaMap map, Mapping mapping, std::string lender, std::optional<ShownSlots> shown = std::nullopt)
      : map_(std::move(map)), mapping_(std::move(mapping)), lender_(std::move(lender)), shown_(std::move(shown)) {}

  const v1::ArenaMap& map() const { return map_; }
  const Mapping& mapping() const { return mapping_; }
  // Null without a slot map.
  const Mapping* slot_map_memory() const { return shown_.has_value() ? &shown_->mapping : nullptr; }
  // The node whose memory it is, when that is not the one attached to: its slots are leased, and prove themselves by digest alone.
  const std::string& lender() const { return lender_; }
  bool lent() const { return !lender_.empty(); }
  // That node is gone, and nothing is mapped any more.
  bool withdrawn() const { return mapping_.bytes().empty(); }

  // `slot` passed ValidateSlotRun, and the arena is not withdrawn.
  SlotView<const std::byte> slot(uint32_t slot) const {
    return {mapping_.bytes().subspan(slot * map_.slot_bytes(), map_.slot_bytes()),
            SlotGeometry{.payload_offset = map_.payload_offset(), .slot_bytes = map_.slot_bytes()}};
  }

  // Where `name` is Ready, by the slot map; without one nowhere. It may leave at any time: see Holds.
  std::optional<SlotMap::Place> Find(const BlockName& name) const;
  // Whether a place that Find told has been the same since.
  bool Holds(const SlotMap::Place& place) const { return shown_->map.Holds(place); }

 private:
  const v1::ArenaMap map_;
  const Mapping mapping_;
  const std::string lender_;
  const std::optional<ShownSlots> shown_;
};

// Threads: any.
class SessionMemory {
 public:
  // Maps what `grant` names: `descriptors` holds the staging memfd if any was granted, then one per arena and slot map.
  // Errors: Internal (a file that is too short or can still shrink), ResourceExhausted (the kernel refuses).
  static absl::StatusOr<std::shared_ptr<SessionMemory>> Map(const NamespaceSpec& spec, const AttachGrant& grant,
                                                            std::vector<UniqueFd> descriptors);

  const NamespaceSpec& spec() const { return spec_; }
  const NamespaceFingerprint& space() const { return space_; }
  // What is mapped at one moment, withdrawn ones too: answers that were on the way may still name them.
  struct Arenas {
    std::vector<v1::ArenaMap> maps;  // as validated
    std::vector<std::shared_ptr<const MappedArena>> mapped;  // the same, in the same order

    // The arena with id `arena`, which is one of these.
    const std::shared_ptr<const MappedArena>& Find(uint32_t arena) const;
  };
  std::shared_ptr<const Arenas> arenas() const;

  // Maps what is offered. False, and nothing is done, when it is withdrawn (what stems use of it stays mapped until they end), known
  // already, or one too many. Errors: InvalidArgument (validation refuses it), Internal, ResourceExhausted, as Map.
  absl::StatusOr<bool> Take(const v1::ArenaOffer& offer, std::vector<UniqueFd> descriptors);

  // A share of the work that first reads would cost; false when nothing is left. One thread at a time.
  bool PrefaultSome();

  std::span<std::byte> staging() const { return staging_.bytes(); }
  StagingAllocator& allocator() { return allocator_; }

 private:
  SessionMemory(const NamespaceSpec& spec, const AttachGrant& grant);
  void Replace(std::vector<std::shared_ptr<const MappedArena>> mapped) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NamespaceSpec spec_;
  const NamespaceFingerprint space_;
  Mapping staging_;
  mutable Mutex mutex_;
  std::shared_ptr<const Arenas> arenas_ ABSL_GUARDED_BY(mutex_);  // replaced whole
  struct PrefaultedBytes {
    size_t slot_map = 0;
    size_t arena = 0;
  };
  std::map<uint32_t, PrefaultedBytes> prefaulted_;  // by arena; of the prefaulting thread
  StagingAllocator allocator_;
};

}  // namespace stem
