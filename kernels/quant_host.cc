// The CPU twin of quantizing gather and scatter: rows go from a page through the first-level cache into the block, or back.
#include "kernels/chunk_stream.h"
#include "kernels/quant_isa.h"
#include "kernels/quant_plan.h"

namespace stem {
namespace quant {

size_t AvailableQuantIsas(const QuantIsa* isas[kQuantIsasMax]) {
  const checksum_internal::ChecksumIsa* same[checksum_internal::kIsasMax];
  const size_t count = checksum_internal::AvailableIsas(same);  // by the same rules
  isas[0] = &kQuantBaseline;
#if defined(__x86_64__)
  if (count > 1) isas[1] = &kQuantAvx2;
  if (count > 2) isas[2] = &kQuantAvx512;
#endif
  return count;
}

}  // namespace quant

namespace {

using quant::Codec;
using quant::QuantIsa;

const QuantIsa& Fastest() {
  static const QuantIsa* const isa = [] {
    const QuantIsa* isas[quant::kQuantIsasMax];
    return isas[quant::AvailableQuantIsas(isas) - 1];
  }();
  return *isa;
}

float CodecLargest(Codec codec) {
  switch (codec) {
    case Codec::kFp8E4m3: return quant::CodecOf<Codec::kFp8E4m3>::kLargest;
    case Codec::kFp8E5m2: return quant::CodecOf<Codec::kFp8E5m2>::kLargest;
    case Codec::kInt8: return quant::CodecOf<Codec::kInt8>::kLargest;
    case Codec::kInt4: return quant::CodecOf<Codec::kInt4>::kLargest;
  }
  return 0;
}

// One plane of one layer of one item.
struct Plane {
  int index;
  std::byte* base;
  const uint32_t* pages;
};

// Calls visit(row in the page, head of the block) token by token, head by head.
template <typename Visit>
void ForEachRow(const CopyPlan& plan, const Plane& plane, Visit visit) {
  const uint64_t page_row = plan.row_stride_bytes[plane.index];
  const uint64_t page_head = plan.head_major ? plan.page_rows * page_row : page_row;
  const uint64_t page_token = plan.head_major ? page_row : plan.page_heads * page_row;
  for (uint32_t i = 0; i < plan.page_count; ++i) {
    std::byte* const page = plane.base + plane.pages[i] * plan.page_stride_bytes + plan.page_head_first * page_head;
    for (uint64_t token = 0; token < plan.page_rows; ++token) {
      for (uint32_t head = 0; head < plan.heads; ++head) {
        visit(page + token * page_token + head * page_head, uint64_t{i} * plan.page_rows + token, head);
      }
    }
  }
}

template <typename Visit>
void ForEachPlane(const QuantPlan& plan, const CopyItem& item, Visit visit) {
  const CopyPlan& copy = plan.copy;
  for (uint32_t layer = 0; layer < copy.layer_count; ++layer) {
    const uint32_t* const pages = item.pages + (copy.layer_tables ? uint64_t{layer} * copy.page_count : 0);
    uint64_t at = layer * plan.layer_bytes();
    for (int index = 0; index < 2; ++index) {
      if (plan.elements[index] == 0) continue;
      visit(Plane{index, index == 0 ? copy.layers[layer].keys : copy.layers[layer].values, pages}, at);
      at += plan.plane_bytes(index);
    }
  }
}

class Quantizer {
 public:
  Quantizer(const QuantPlan& plan, ChunkSink& sink)
      : plan_(plan), isa_(Fastest()), element_(static_cast<int>(plan.element)), codec_(static_cast<int>(plan.codec)),
        sink_(sink) {}

  void ByToken(const Plane& plane) {
    const auto quantize = isa_.quantize[element_][codec_];
    const uint32_t elements = plan_.elements[plane.index];
    const uint64_t code_bytes = plan_.code_bytes(plane.index);
    const uint64_t row_bytes = plan_.row_bytes(plane.index);
    alignas(kCacheLineBytes) std::byte kept[kRowElementsMax + sizeof(float)];
    ForEachRow(plan_.copy, plane, [&](const std::byte* row, uint64_t, uint32_t) {
      std::byte* const room = sink_.Room(row_bytes);
      std::byte* const to = room == nullptr ? kept : room;
      float scale;
      quantize(row, elements, to, &scale);
      std::memcpy(to + code_bytes, &scale, sizeof(scale));
      if (room == nullptr) {
        sink_.Append(kept, row_bytes);
      } else {
        sink_.Advance(row_bytes);
      }
    });
  }

  void ByChannel(const Plane& plane) {
    const uint32_t elements = plan_.elements[plane.index];
    const uint32_t channels = plan_.copy.heads * elements;
    std::fill_n(largest_, channels, 0);
    const auto magnitudes = isa_.magnitudes[element_];
    ForEachRow(plan_.copy, plane, [&](const std::byte* row, uint64_t, uint32_t head) {
      magnitudes(row, elements, largest_ + head * elements);
    });
    const float codec_largest = CodecLargest(plan_.codec);
    for (uint32_t i = 0; i < channels; ++i) {
      const quant::Scale scale = quant::ScaleOf(largest_[i], codec_largest);
      inverses_[i] = scale.inverse;
      largest_[i] = quant::Bits(scale.scale);
    }
    sink_.Append(reinterpret_cast<const std::byte*>(largest_), channels * sizeof(float));
    const auto quantize = isa_.quantize_channels[element_][codec_];
    const uint64_t code_bytes = plan_.code_bytes(plane.index);
    alignas(kCacheLineBytes) std::byte kept[kRowElementsMax];
    ForEachRow(plan_.copy, plane, [&](const std::byte* row, uint64_t, uint32_t head) {
      std::byte* const room = sink_.Room(code_bytes);
      quantize(row, elements, inverses_ + head * elements, room == nullptr ? kept : room);
      if (room == nullptr) {
        sink_.Append(kept, code_bytes);
      } else {
        sink_.Advance(code_bytes);
      }
    });
  }

 private:
  const QuantPlan& plan_;
  const QuantIsa& isa_;
  const int element_, codec_;
  ChunkSink& sink_;
  uint32_t largest_[kChannelsMax];
  float inverses_[kChannelsMax];
};

class Dequantizer {
 public:
  Dequantizer(const QuantPlan& plan, ChunkSource& source, const checksum_internal::ChecksumIsa& copier, bool stream)
      : plan_(plan), isa_(Fastest()), element_(static_cast<int>(plan.element)), codec_(static_cast<int>(plan.codec)),
        source_(source), copier_(copier), stream_(stream) {}

  void Run(const Plane& plane, uint64_t plane_at) {
    const CopyPlan& copy = plan_.copy;
    const uint32_t elements = plan_.elements[plane.index];
    const uint64_t row_bytes = plan_.row_bytes(plane.index);
    const uint64_t code_bytes = plan_.code_bytes(plane.index);
    const bool by_token = plan_.axis == ScaleAxis::kToken;
    if (!by_token) TakeScales(plane_at, copy.block_heads * elements);
    const uint64_t rows_at = plane_at + plan_.scale_bytes(plane.index);
    const auto dequantize = isa_.dequantize[element_][codec_];
    const auto dequantize_channels = isa_.dequantize_channels[element_][codec_];
    alignas(kCacheLineBytes) std::byte kept[kRowElementsMax * sizeof(float)];
    ForEachRow(copy, plane, [&](std::byte* row, uint64_t token, uint32_t head) {
      const uint64_t block_head = copy.block_head_first + head;
      const std::byte* const codes =
          source_.Take(rows_at + (token * copy.block_heads + block_head) * row_bytes, row_bytes);
      std::byte* const to = stream_ ? kept : row;
      if (by_token) {
        float scale;
        std::memcpy(&scale, codes + code_bytes, sizeof(scale));
        dequantize(codes, elements, scale, to);
      } else {
        dequantize_channels(codes, elements, scales_ + block_head * elements, to);
      }
      if (!stream_) return;
      const checksum_internal::CopyRun run = {row, kept, copy.row_bytes[plane.index]};
      copier_.stream_runs(&run, 1, 1);
    });
  }

 private:
  void TakeScales(uint64_t at, uint32_t channels) {
    auto* const to = reinterpret_cast<std::byte*>(scales_);
    const uint64_t bytes = channels * sizeof(float);
    for (uint64_t done = 0; done < bytes;) {
      const size_t part = std::min<uint64_t>(bytes - done, kStreamChunkBytes);
      std::memcpy(to + done, source_.Take(at + done, part), part);
      done += part;
    }
  }

  const QuantPlan& plan_;
  const QuantIsa& isa_;
  const int element_, codec_;
  ChunkSource& source_;
  const checksum_internal::ChecksumIsa& copier_;
  const bool stream_;
  float scales_[kChannelsMax];
};

}  // namespace

void RunOnHost(const QuantPlan& plan, uint64_t* const* hashes) {
  const checksum_internal::ChecksumIsa& copier = checksum_internal::FastestIsa();
  const bool gather = plan.copy.direction == CopyDirection::kGather;
  const uint64_t bytes = gather ? plan.block_bytes() : plan.copy.block_bytes();
  const bool stream = bytes * plan.copy.item_count >= kStreamBytesMin;
  for (uint32_t i = 0; i < plan.copy.item_count; ++i) {
    const CopyItem& item = plan.copy.items[i];
    uint64_t* const item_hashes = hashes == nullptr ? nullptr : hashes[i];
    if (gather) {
      ChunkSink sink(copier, stream, item.block, item_hashes);
      Quantizer quantizer(plan, sink);
      ForEachPlane(plan, item, [&](const Plane& plane, uint64_t) {
        plan.axis == ScaleAxis::kToken ? quantizer.ByToken(plane) : quantizer.ByChannel(plane);
      });
    } else {
      ChunkSource source(copier, item.block, plan.block_bytes(), item_hashes);
      Dequantizer dequantizer(plan, source, copier, stream);
      ForEachPlane(plan, item, [&](const Plane& plane, uint64_t at) { dequantizer.Run(plane, at); });
    }
  }
  if (stream) copier.fence();
}

}  // namespace stem
