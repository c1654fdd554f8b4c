// Builders of the two run-length lists that answers carry.
#pragma once

#include <algorithm>
#include <cstdint>

#include "proto/validate.h"
#include "storage/pool/block_pool.h"

namespace stem {

// A slot that a client may read.
struct ReadableSlot {
  uint32_t arena = 0;
  uint32_t slot = 0;
  uint64_t generation = 0;
  v1::Source source = v1::SOURCE_UNSPECIFIED;
};

// Appends `slot` at `position` to `runs`, joining it to the last run when it goes on.
inline void AppendSlot(google::protobuf::RepeatedPtrField<v1::SlotRun>& runs, uint32_t position, const ReadableSlot& slot) {
  v1::SlotRun* run = runs.empty() ? nullptr : runs.Mutable(runs.size() - 1);
  if (run == nullptr || run->source() != slot.source || run->arena() != slot.arena ||
      run->first() + static_cast<uint32_t>(run->slots_size()) != position) {
    run = runs.Add();
    run->set_first(position);
    run->set_arena(slot.arena);
    run->set_source(slot.source);
  }
  run->add_slots(slot.slot);
  run->add_generations(slot.generation);
}

// Takes back what was appended from position `end` on.
inline void CutSlots(google::protobuf::RepeatedPtrField<v1::SlotRun>& runs, uint32_t end) {
  while (!runs.empty()) {
    v1::SlotRun* const last = runs.Mutable(runs.size() - 1);
    if (last->first() < end) {
      const auto keep = static_cast<int>(std::min<uint32_t>(static_cast<uint32_t>(last->slots_size()), end - last->first()));
      last->mutable_slots()->Truncate(keep);
      last->mutable_generations()->Truncate(keep);
      return;
    }
    runs.RemoveLast();
  }
}

// Appends `count` blocks from `first` on that were missed for `cause`; they must follow the last run. `estimate_ms`: see
// v1::Miss; a run keeps that of its first block.
inline void AppendMiss(google::protobuf::RepeatedPtrField<v1::Miss>& misses, uint32_t first, uint32_t count,
                       v1::MissCause cause, uint32_t estimate_ms = 0) {
  if (count == 0) return;
  if (!misses.empty() && misses.Get(misses.size() - 1).cause() == cause) {
    v1::Miss* const last = misses.Mutable(misses.size() - 1);
    last->set_count(last->count() + count);
    return;
  }
  v1::Miss* const miss = misses.Add();
  miss->set_first(first);
  miss->set_count(count);
  miss->set_cause(cause);
  miss->set_estimate_ms(estimate_ms);
}

}  // namespace stem
