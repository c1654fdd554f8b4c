// Quantizing gather and dequantizing scatter on the GPU. With a scale per head and token a warp takes a row; with one per
// head and channel a thread takes two channels (which int4 packs in a byte) through all tokens of the block.
#include "kernels/launch.h"
#include "kernels/launch_batch.cuh"
#include "kernels/quant_index.h"

namespace stem {
namespace {

using quant::Codec;
using quant::CodecOf;
using quant::Element;
using quant::ElementOf;

template <typename AnyTables>
struct QuantBatch {
  QuantIndex index;
  AnyTables tables;
  Codec codec;
  uint32_t rows;  // of one item
  uint32_t tokens;
};
static_assert(sizeof(QuantBatch<SmallTables>) <= 4096 && sizeof(QuantBatch<LargeTables>) <= 32764);

__device__ float CodecLargest(Codec codec) {
  switch (codec) {
    case Codec::kFp8E4m3: return CodecOf<Codec::kFp8E4m3>::kLargest;
    case Codec::kFp8E5m2: return CodecOf<Codec::kFp8E5m2>::kLargest;
    case Codec::kInt8: return CodecOf<Codec::kInt8>::kLargest;
    default: return CodecOf<Codec::kInt4>::kLargest;
  }
}

__device__ uint8_t Encode(Codec codec, float value) {
  switch (codec) {  // the same for every thread
    case Codec::kFp8E4m3: return CodecOf<Codec::kFp8E4m3>::Encode(value);
    case Codec::kFp8E5m2: return CodecOf<Codec::kFp8E5m2>::Encode(value);
    case Codec::kInt8: return CodecOf<Codec::kInt8>::Encode(value);
    default: return CodecOf<Codec::kInt4>::Encode(value);
  }
}

__device__ float Decode(Codec codec, uint8_t code) {
  switch (codec) {
    case Codec::kFp8E4m3: return CodecOf<Codec::kFp8E4m3>::Decode(code);
    case Codec::kFp8E5m2: return CodecOf<Codec::kFp8E5m2>::Decode(code);
    case Codec::kInt8: return CodecOf<Codec::kInt8>::Decode(code);
    default: return CodecOf<Codec::kInt4>::Decode(code);
  }
}

// kGroup values that are next to each other: four are read and written as one word, fewer one by one, as nothing but the
// element's alignment is known then.
template <typename Stored, uint32_t kGroup>
struct alignas(kGroup == 4 ? 4 * sizeof(Stored) : sizeof(Stored)) Group {
  Stored values[kGroup];
};

// Codes of values i and on: kGroup bytes, or half as many where two share one. An odd row's last value has no neighbour.
template <uint32_t kGroup>
__device__ void StoreCodes(Codec codec, const uint8_t (&values)[kGroup], std::byte* codes, uint32_t i) {
  if (codec != Codec::kInt4) {
    Group<uint8_t, kGroup> group;
    for (uint32_t j = 0; j < kGroup; ++j) group.values[j] = values[j];
    *reinterpret_cast<Group<uint8_t, kGroup>*>(codes + i) = group;
    return;
  }
  for (uint32_t j = 0; j + 1 < kGroup; j += 2) {
    codes[(i + j) / 2] = static_cast<std::byte>((values[j] & 0xF) | values[j + 1] << 4);
  }
}

template <uint32_t kGroup>
__device__ void FetchCodes(Codec codec, const std::byte* codes, uint32_t i, uint8_t (&values)[kGroup]) {
  if (codec != Codec::kInt4) {
    const auto group = *reinterpret_cast<const Group<uint8_t, kGroup>*>(codes + i);
    for (uint32_t j = 0; j < kGroup; ++j) values[j] = group.values[j];
    return;
  }
  for (uint32_t j = 0; j + 1 < kGroup; j += 2) {
    const auto byte = static_cast<uint8_t>(codes[(i + j) / 2]);
    values[j] = byte & 0xF;
    values[j + 1] = byte >> 4;
  }
}

template <typename Batch>
__device__ std::byte* PageRow(const Batch& batch, const QuantIndex::Place& place) {
  const LayerPages& layer = batch.tables.layers[place.layer];
  const uint32_t page = batch.tables.pages[blockIdx.z * batch.tables.table_pages + place.table];
  return (place.plane == 0 ? layer.keys : layer.values) + page * batch.index.page_stride_bytes + place.page_bytes;
}

__device__ void StoreFloat(std::byte* to, float value) { memcpy(to, &value, sizeof(value)); }

__device__ float FetchFloat(const std::byte* from) {
  float value;
  memcpy(&value, from, sizeof(value));
  return value;
}

template <Element kElement, uint32_t kGroup, typename Batch>
__global__ void QuantizeRows(const __grid_constant__ Batch batch) {
  using Format = ElementOf<kElement>;
  using Values = Group<typename Format::Stored, kGroup>;
  const uint32_t row = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;
  const uint32_t lane = threadIdx.x % kWarp;
  if (row >= batch.rows) return;  // the whole warp
  const QuantIndex::Place place = batch.index.Locate(row);
  const std::byte* const from = PageRow(batch, place);
  std::byte* const codes = batch.tables.blocks[blockIdx.z] + place.block_bytes;
  const uint32_t elements = batch.index.elements[place.plane];
  uint32_t largest = 0;
  for (uint32_t i = lane * kGroup; i < elements; i += kWarp * kGroup) {
    const Values values = *reinterpret_cast<const Values*>(from + i * sizeof(typename Format::Stored));
    for (uint32_t j = 0; j < kGroup; ++j) largest = max(largest, quant::Bits(Format::Read(values.values[j])) & 0x7FFFFFFF);
  }
  largest = __reduce_max_sync(kAllLanes, largest);
  const quant::Scale scale = quant::ScaleOf(largest, CodecLargest(batch.codec));
  for (uint32_t i = lane * kGroup; i < elements; i += kWarp * kGroup) {
    const Values values = *reinterpret_cast<const Values*>(from + i * sizeof(typename Format::Stored));
    uint8_t encoded[kGroup];
    for (uint32_t j = 0; j < kGroup; ++j) {
      encoded[j] = Encode(batch.codec, quant::Scaled(Format::Read(values.values[j]), scale.inverse));
    }
    StoreCodes<kGroup>(batch.codec, encoded, codes, i);
  }
  if (lane == 0) StoreFloat(codes + batch.index.code_bytes[place.plane], scale.scale);
}

template <Element kElement, uint32_t kGroup, typename Batch>
__global__ void DequantizeRows(const __grid_constant__ Batch batch) {
  using Format = ElementOf<kElement>;
  using Values = Group<typename Format::Stored, kGroup>;
  const uint32_t row = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;
  if (row >= batch.rows) return;
  const QuantIndex::Place place = batch.index.Locate(row);
  std::byte* const to = PageRow(batch, place);
  const std::byte* const codes = batch.tables.blocks[blockIdx.z] + place.block_bytes;
  const float scale = FetchFloat(codes + batch.index.code_bytes[place.plane]);
  const uint32_t elements = batch.index.elements[place.plane];
  for (uint32_t i = threadIdx.x % kWarp * kGroup; i < elements; i += kWarp * kGroup) {
    uint8_t encoded[kGroup];
    FetchCodes<kGroup>(batch.codec, codes, i, encoded);
    Values values;
    for (uint32_t j = 0; j < kGroup; ++j) {
      values.values[j] = Format::Write(quant::Product(Decode(batch.codec, encoded[j]), scale));
    }
    *reinterpret_cast<Values*>(to + i * sizeof(typename Format::Stored)) = values;
  }
}

// blockIdx: x pairs of channels of all heads, y layer and plane, z item.
template <Element kElement, bool kGather, typename Batch>
__global__ void Channels(const __grid_constant__ Batch batch, uint32_t planes) {
  using Format = ElementOf<kElement>;
  using Stored = typename Format::Stored;
  const QuantIndex& index = batch.index;
  const uint32_t layer = blockIdx.y / planes, plane = blockIdx.y % planes;
  const uint32_t elements = index.elements[plane];
  const uint32_t pairs = (elements + 1) / 2;
  const uint32_t pair = blockIdx.x * blockDim.x + threadIdx.x;
  const uint32_t head = pair / pairs;
  if (head >= index.head.divisor) return;
  const uint32_t first = pair % pairs * 2;
  const uint32_t count = elements - first < 2 ? 1 : 2;
  std::byte* const block = batch.tables.blocks[blockIdx.z];
  std::byte* const scales = block + index.ScalesAt(layer, plane, head) + first * sizeof(float);
  quant::Scale scale[2] = {};
  if (kGather) {
    uint32_t largest[2] = {0, 0};
    for (uint32_t token = 0; token < batch.tokens; ++token) {
      const auto* const row = reinterpret_cast<const Stored*>(PageRow(batch, index.At(layer, plane, token, head)));
      for (uint32_t j = 0; j < count; ++j) {
        largest[j] = max(largest[j], quant::Bits(Format::Read(row[first + j])) & 0x7FFFFFFF);
      }
    }
    for (uint32_t j = 0; j < count; ++j) {
      scale[j] = quant::ScaleOf(largest[j], CodecLargest(batch.codec));
      StoreFloat(scales + j * sizeof(float), scale[j].scale);
    }
  } else {
    for (uint32_t j = 0; j < count; ++j) scale[j].scale = FetchFloat(scales + j * sizeof(float));
  }
  for (uint32_t token = 0; token < batch.tokens; ++token) {
    const QuantIndex::Place place = index.At(layer, plane, token, head);
    auto* const row = reinterpret_cast<Stored*>(PageRow(batch, place));
    std::byte* const codes = block + place.block_bytes;
    if (kGather) {
      uint8_t encoded[2] = {0, 0};
      for (uint32_t j = 0; j < count; ++j) {
        encoded[j] = Encode(batch.codec, quant::Scaled(Format::Read(row[first + j]), scale[j].inverse));
        if (batch.codec != Codec::kInt4) codes[first + j] = static_cast<std::byte>(encoded[j]);
      }
      if (batch.codec == Codec::kInt4) codes[first / 2] = static_cast<std::byte>((encoded[0] & 0xF) | encoded[1] << 4);
    } else {
      for (uint32_t j = 0; j < count; ++j) {
        const auto byte = static_cast<uint8_t>(codes[batch.codec == Codec::kInt4 ? first / 2 : first + j]);
        const uint8_t code = batch.codec == Codec::kInt4 ? byte >> 4 * j & 0xF : byte;
        row[first + j] = Format::Write(quant::Product(Decode(batch.codec, code), scale[j].scale));
      }
    }
  }
}

// Whether rows, strides and blocks allow words of four values and four codes.
bool InFours(const QuantPlan& plan) {
  const uint64_t word_bytes = 4 * (plan.element == Element::kFp32 ? 4 : 2);
  uint64_t pages = plan.copy.page_stride_bytes | plan.copy.row_stride_bytes[0] | plan.copy.row_stride_bytes[1];
  uint64_t blocks = plan.row_bytes(0) | plan.row_bytes(1) | plan.elements[0] | plan.elements[1];
  for (uint32_t i = 0; i < plan.copy.layer_count; ++i) {
    pages |= reinterpret_cast<uintptr_t>(plan.copy.layers[i].keys);
    pages |= reinterpret_cast<uintptr_t>(plan.copy.layers[i].values);
  }
  for (uint32_t i = 0; i < plan.copy.item_count; ++i) blocks |= reinterpret_cast<uintptr_t>(plan.copy.items[i].block);
  return pages % word_bytes == 0 && blocks % 4 == 0;
}

template <Element kElement, uint32_t kGroup, typename Batch>
void LaunchRows(const QuantPlan& plan, const Batch& batch, uint32_t items, cudaStream_t stream) {
  const dim3 grid((batch.rows + kWarpsPerBlock - 1) / kWarpsPerBlock, 1, items);
  if (plan.copy.direction == CopyDirection::kGather) {
    QuantizeRows<kElement, kGroup><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch);
  } else {
    DequantizeRows<kElement, kGroup><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch);
  }
}

template <Element kElement, typename Batch>
void LaunchElement(const QuantPlan& plan, const Batch& batch, const Cut& cut, cudaStream_t stream) {
  if (plan.axis == ScaleAxis::kToken) {
    if (InFours(plan)) return LaunchRows<kElement, 4>(plan, batch, cut.item_count, stream);
    if (plan.codec == Codec::kInt4) return LaunchRows<kElement, 2>(plan, batch, cut.item_count, stream);
    return LaunchRows<kElement, 1>(plan, batch, cut.item_count, stream);
  }
  constexpr uint32_t kThreads = 128;
  const uint32_t planes = plan.elements[1] == 0 ? 1 : 2;
  const uint32_t elements = plan.elements[0] > plan.elements[1] ? plan.elements[0] : plan.elements[1];
  const uint32_t pairs = (elements + 1) / 2 * plan.copy.heads;
  const dim3 grid((pairs + kThreads - 1) / kThreads, cut.layer_count * planes, cut.item_count);
  if (plan.copy.direction == CopyDirection::kGather) {
    Channels<kElement, true><<<grid, kThreads, 0, stream>>>(batch, planes);
  } else {
    Channels<kElement, false><<<grid, kThreads, 0, stream>>>(batch, planes);
  }
}

template <typename AnyTables>
cudaError_t LaunchCut(const QuantPlan& plan, const Cut& cut, cudaStream_t stream) {
  static thread_local QuantBatch<AnyTables> batch;
  QuantPlan part = plan;
  part.copy = PlanOf(plan.copy, cut);
  batch.index = QuantIndex::Of(part);
  FillTables(batch.tables, plan.copy, cut, plan.layer_bytes());
  batch.codec = plan.codec;
  batch.rows = cut.layer_count * batch.index.layer.divisor;
  batch.tokens = static_cast<uint32_t>(plan.copy.rows());
  if (plan.element == Element::kBf16) {
    LaunchElement<Element::kBf16>(plan, batch, cut, stream);
  } else if (plan.element == Element::kFp16) {
    LaunchElement<Element::kFp16>(plan, batch, cut, stream);
  } else {
    LaunchElement<Element::kFp32>(plan, batch, cut, stream);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchQuantized(const QuantPlan& plan, cudaStream_t stream) {
  return ForEachCut(plan.copy, kItemsMax, [&](const Cut& cut, uint64_t ids) {
    return ids <= kFewPages && cut.item_count <= kFewItems ? LaunchCut<SmallTables>(plan, cut, stream)
                                                           : LaunchCut<LargeTables>(plan, cut, stream);
  });
}

}  // namespace stem
