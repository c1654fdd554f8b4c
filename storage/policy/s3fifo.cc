#include "storage/policy/s3fifo.h"

#include <algorithm>

namespace stem {

void S3FifoPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= entries_.size()) entries_.resize(id + size_t{1});
  entries_[id] = {.key = info.key};
  queues_.PushBack(ghosts_.Erase(info.key) ? kMain : kSmall, id);
}

void S3FifoPolicy::Touch(BlockId id, const BlockInfo& /*info*/) {
  if (queues_.Contains(id)) entries_[id].uses = static_cast<uint8_t>(std::min(entries_[id].uses + 1, 3));
}

void S3FifoPolicy::Remove(BlockId id) {
  if (!queues_.Contains(id)) return;
  if (queues_.ListOf(id) == kSmall) {
    ghosts_.Push(entries_[id].key);
    ghosts_.TrimTo(ghosts_max_);
  }
  queues_.Unlink(id);
}

std::optional<BlockId> S3FifoPolicy::Victim() {
  while (!queues_.empty(kSmall) || !queues_.empty(kMain)) {
    if (queues_.size(kSmall) > small_max_ || queues_.empty(kMain)) {
      const BlockId id = queues_.Front(kSmall);
      if (entries_[id].uses == 0) return id;
      entries_[id].uses = 0;
      queues_.MoveToBack(kMain, id);
    } else {
      const BlockId id = queues_.Front(kMain);
      if (entries_[id].uses == 0) return id;
      --entries_[id].uses;
      queues_.MoveToBack(kMain, id);
    }
  }
  return std::nullopt;
}

void S3FifoPolicy::Defer(BlockId id) {
  if (queues_.Contains(id)) queues_.MoveToBack(kMain, id);
}

}  // namespace stem
