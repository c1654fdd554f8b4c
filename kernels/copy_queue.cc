#include "kernels/copy_queue.h"

#include <optional>
#include <utility>
#include <vector>

#include "proto/status.h"

namespace stem {
namespace {

class GpuQueue final : public CopyQueue {
 public:
  // Of one device.
  struct Parts {
    Stream stream;
    PinnedBuffer pinned;
    std::vector<Event> marks;
  };

  GpuQueue(int device, Parts parts) : device_(device), parts_(std::move(parts)) {}
  ~GpuQueue() override {
    const OnDevice current(device_);
    (void)parts_->stream.Synchronize();
    parts_.reset();
  }

  std::span<std::byte> pinned() const override { return parts_->pinned.bytes(); }
  absl::Status EnterThread() override { return UseDevice(device_); }

  absl::Status Gather(const BlockShape& shape, const PagedCache& cache, const BlockDestination& block) override {
    return OnIt([&] { return stem::Gather(shape, cache, {&block, 1}, parts_->stream); });
  }
  absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, const BlockSource& block) override {
    return OnIt([&] { return stem::Scatter(shape, cache, {&block, 1}, parts_->stream); });
  }
  absl::Status Copy(std::span<std::byte> dst, std::span<const std::byte> src) override {
    return OnIt([&] { return parts_->stream.Copy(dst, src); });
  }
  absl::Status Mark(size_t which) override {
    return OnIt([&] { return parts_->marks.at(which).Record(parts_->stream); });
  }
  absl::Status Await(size_t which) override {
    return OnIt([&] { return parts_->marks.at(which).Synchronize(); });
  }

 private:
  template <typename Work>
  absl::Status OnIt(Work work) const {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return work();
  }

  const int device_;
  std::optional<Parts> parts_;  // until the end of its life
};

}  // namespace

absl::StatusOr<std::unique_ptr<CopyQueue>> MakeGpuQueue(int device, size_t pinned_bytes) {
  const OnDevice current(device);
  STEM_TRY(current.status());
  STEM_ASSIGN(Stream stream, Stream::Create());
  STEM_ASSIGN(PinnedBuffer pinned, PinnedBuffer::Allocate(pinned_bytes));
  std::vector<Event> marks;
  for (size_t i = 0; i < CopyQueue::kMarksMax; ++i) {
    STEM_ASSIGN(Event mark, Event::Create());
    marks.push_back(std::move(mark));
  }
  return std::make_unique<GpuQueue>(
      device, GpuQueue::Parts{.stream = std::move(stream), .pinned = std::move(pinned), .marks = std::move(marks)});
}

absl::StatusOr<Event> EventBehind(int device, CUstream_st* stream) {
  const OnDevice current(device);
  STEM_TRY(current.status());
  STEM_ASSIGN(Event event, Event::Create());
  STEM_TRY(event.Record(Stream::Borrow(stream)));
  return event;
}

}  // namespace stem
