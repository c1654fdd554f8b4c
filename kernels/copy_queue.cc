#include "kernels/copy_queue.h"

#include <utility>
#include <vector>

#include "proto/status.h"

namespace stem {
namespace {

class GpuQueue final : public CopyQueue {
 public:
  GpuQueue(int device, Stream stream, PinnedBuffer pinned, std::vector<Event> marks)
      : device_(device), stream_(std::move(stream)), pinned_(std::move(pinned)), marks_(std::move(marks)) {}
  ~GpuQueue() override {
    const OnDevice current(device_);
    (void)stream_.Synchronize();
  }

  std::span<std::byte> pinned() const override { return pinned_.bytes(); }

  absl::Status After(const Event& event) override {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return event.Await(stream_);
  }
  absl::Status Gather(const BlockShape& shape, const PagedCache& cache, const BlockDestination& block) override {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return stem::Gather(shape, cache, {&block, 1}, stream_);
  }
  absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, const BlockSource& block) override {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return stem::Scatter(shape, cache, {&block, 1}, stream_);
  }
  absl::Status Copy(std::span<std::byte> dst, std::span<const std::byte> src) override {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return stream_.Copy(dst, src);
  }
  absl::Status Mark(size_t which) override {
    const OnDevice current(device_);
    STEM_TRY(current.status());
    return marks_.at(which).Record(stream_);
  }
  absl::Status Await(size_t which) override { return marks_.at(which).Synchronize(); }

 private:
  const int device_;
  Stream stream_;
  PinnedBuffer pinned_;
  std::vector<Event> marks_;
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
  return std::make_unique<GpuQueue>(device, std::move(stream), std::move(pinned), std::move(marks));
}

absl::StatusOr<Event> EventBehind(int device, CUstream_st* stream) {
  const OnDevice current(device);
  STEM_TRY(current.status());
  STEM_ASSIGN(Event event, Event::Create());
  STEM_TRY(event.Record(Stream::Borrow(stream)));
  return event;
}

}  // namespace stem
