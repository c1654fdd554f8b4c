// An engine's pages that only a device can touch, reached by way of pinned memory: a payload is proved into a room of it by the host, and goes
// on to its pages while the next is proved; or comes from its pages into a room, and goes on to staging.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/engine_pages.h"
#include "kernels/copy_queue.h"
#include "proto/status.h"

namespace stem {

// Rooms are numbered on without end; room n lies where room n - rooms() lay. Threads: one at a time. Errors of all: as of CopyQueue.
class PageExchange {
 public:
  // `pages` is borrowed. Errors: as of MakeGpuQueue; InvalidArgument (more than kBlockPagesMax pages a block).
  static absl::StatusOr<std::unique_ptr<PageExchange>> Create(const EnginePages& pages);

  size_t rooms() const { return rooms_; }

  // As of CopyQueue.
  absl::Status EnterThread() { return queue_->EnterThread(); }
  // The first `bytes` of a room, once nothing that was queued uses them. `bytes`: at most the largest part's.
  absl::StatusOr<std::span<std::byte>> Room(size_t number, uint64_t bytes);
  // Queues a room's payload on its way to its pages; those that there are not are left out.
  absl::Status ToPages(const EnginePart& part, const BlockPages& block, size_t room);
  // Queues pages, all of them there, on their way to a room.
  absl::Status FromPages(const EnginePart& part, const BlockPages& block, size_t room);
  // Waits for all that was queued.
  absl::Status Finish();

 private:
  // Planes that follow each other in the payload and are alike: one launch.
  struct Planes {
    std::vector<LayerPages> layers;
    BlockShape shape;
    PagedCache cache;  // of `layers`
    uint32_t table = 0;
    uint64_t offset = 0;  // in the payload
  };

  PageExchange(const EnginePages& pages, std::unique_ptr<CopyQueue> queue, size_t rooms);
  std::span<std::byte> room(size_t number, uint64_t bytes) const;

  const EnginePages& pages_;
  const uint64_t room_bytes_;
  const size_t rooms_;
  std::vector<std::vector<Planes>> planes_;  // of each part
  std::unique_ptr<CopyQueue> queue_;         // goes first: it waits
};

}  // namespace stem
