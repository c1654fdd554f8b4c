#include "client/page_exchange.h"

#include <algorithm>
#include <utility>

namespace stem {
namespace {

constexpr uint64_t kPinnedBytes = 16 << 20;  // enough that the host proves one payload while others are on their way
constexpr size_t kRoomsMin = 2;

std::vector<uint32_t> TableOf(const BlockPages& block, uint32_t table) {
  const std::span<const int32_t> pages = block.of(table);
  return {pages.begin(), pages.end()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageExchange>> PageExchange::Create(const EnginePages& pages) {
  const uint64_t room_bytes = pages.block_bytes_max();
  const size_t rooms = std::clamp<size_t>(kPinnedBytes / room_bytes, kRoomsMin, CopyQueue::kMarksMax - 1);
  STEM_ASSIGN(std::unique_ptr<CopyQueue> queue, pages.make_queue(rooms * room_bytes));
  std::unique_ptr<PageExchange> exchange(new PageExchange(pages, std::move(queue), rooms));
  for (const std::vector<Planes>& part : exchange->planes_) {
    for (const Planes& planes : part) STEM_TRY(CheckShape(planes.shape));
  }
  return exchange;
}

PageExchange::PageExchange(const EnginePages& pages, std::unique_ptr<CopyQueue> queue, size_t rooms)
    : pages_(pages), room_bytes_(pages.block_bytes_max()), rooms_(rooms), queue_(std::move(queue)) {
  for (const EnginePart& part : pages_.parts) {
    std::vector<Planes>& alike = planes_.emplace_back();
    uint64_t offset = 0;
    for (const EnginePlane& plane : part.planes) {
      const uint32_t pages_per_block = pages_.pages_per_block[plane.table];
      if (alike.empty() || alike.back().table != plane.table || alike.back().shape.key_bytes != plane.page_bytes ||
          alike.back().cache.page_stride_bytes != plane.stride_bytes) {
        Planes& next = alike.emplace_back();
        next.shape = {.order = PageOrder::kOpaque, .block_tokens = pages_per_block, .page_tokens = 1, .key_bytes = plane.page_bytes};
        next.cache = {.layers = {}, .page_stride_bytes = plane.stride_bytes, .page_count = pages_.page_count};
        next.table = plane.table;
        next.offset = offset;
      }
      alike.back().layers.push_back({.keys = plane.base});
      ++alike.back().shape.layer_count;
      offset += plane.page_bytes * pages_per_block;
    }
    for (Planes& planes : alike) planes.cache.layers = planes.layers;
  }
}

std::span<std::byte> PageExchange::room(size_t number, uint64_t bytes) const {
  return queue_->pinned().subspan(number % rooms_ * room_bytes_, bytes);
}

absl::StatusOr<std::span<std::byte>> PageExchange::Room(size_t number, uint64_t bytes) {
  STEM_TRY(queue_->Await(number % rooms_));
  return room(number, bytes);
}

absl::Status PageExchange::ToPages(const EnginePart& part, const BlockPages& block, size_t number) {
  const std::span<const std::byte> payload = room(number, pages_.block_bytes(part));
  if (block.bytes(part) < payload.size()) {
    for (const PayloadRange& range : RangesOf(part, block)) {
      STEM_TRY(queue_->Copy(range.destination, payload.subspan(range.offset, range.destination.size())));
    }
  } else {
    for (const Planes& planes : planes_[static_cast<size_t>(&part - pages_.parts.data())]) {
      const std::vector<uint32_t> pages = TableOf(block, planes.table);
      STEM_TRY(queue_->Scatter(planes.shape, planes.cache,
                               {.pages = pages, .block = payload.subspan(planes.offset, planes.shape.block_bytes())}));
    }
  }
  return queue_->Mark(number % rooms_);
}

absl::Status PageExchange::FromPages(const EnginePart& part, const BlockPages& block, size_t number) {
  const std::span<std::byte> payload = room(number, pages_.block_bytes(part));
  for (const Planes& planes : planes_[static_cast<size_t>(&part - pages_.parts.data())]) {
    const std::vector<uint32_t> pages = TableOf(block, planes.table);
    STEM_TRY(queue_->Gather(planes.shape, planes.cache,
                            {.pages = pages, .block = payload.subspan(planes.offset, planes.shape.block_bytes())}));
  }
  return queue_->Mark(number % rooms_);
}

absl::Status PageExchange::Finish() {
  STEM_TRY(queue_->Mark(rooms_));
  return queue_->Await(rooms_);
}

}  // namespace stem
