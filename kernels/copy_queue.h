// Copies between an engine's pages and memory of the host that a GPU can address, done in the order in which they were queued. MakeGpuQueue
// is a stream of a GPU; tests/support/host_copy_queue.h is its twin where there is none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/block_copy.h"
#include "kernels/device.h"

namespace stem {

// Threads: one at a time. Errors of all: Internal (the device's, by name), which later calls may be the first to tell.
class CopyQueue {
 public:
  static constexpr size_t kMarksMax = 64;

  // Waits for what was queued.
  virtual ~CopyQueue() = default;

  // Memory of the host that queued copies reach. The host must not touch what queued copies use.
  virtual std::span<std::byte> pinned() const = 0;
  // Once by each thread of one's own that is to call the others: makes the device its current one, for good.
  virtual absl::Status EnterThread() = 0;

  // As block_copy.h has them, of one block each; the pages are the device's. Tables are read before the return. Errors besides: InvalidArgument.
  virtual absl::Status Gather(const BlockShape& shape, const PagedCache& cache, const BlockDestination& block) = 0;
  virtual absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, const BlockSource& block) = 0;
  // `dst` and `src` are equally long, and one of them is the device's.
  virtual absl::Status Copy(std::span<std::byte> dst, std::span<const std::byte> src) = 0;

  // Mark `which` (below kMarksMax) stands for all that was queued so far, no longer for what it stood for before.
  virtual absl::Status Mark(size_t which) = 0;
  // Waits for what the mark stands for; at once when it was never set.
  virtual absl::Status Await(size_t which) = 0;
};

// A stream of GPU `device` (0..), with pinned memory. Errors: Unavailable (no GPU or driver), ResourceExhausted (pinned memory), Unimplemented
// (built without CUDA), Internal.
absl::StatusOr<std::unique_ptr<CopyQueue>> MakeGpuQueue(int device, size_t pinned_bytes);

// Stands for what is queued so far on `stream` of GPU `device`, the engine's; null is its default stream. Errors: as of MakeGpuQueue.
absl::StatusOr<Event> EventBehind(int device, CUstream_st* stream);

}  // namespace stem
