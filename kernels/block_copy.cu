// Gather and scatter on the GPU, with or without the digest. A warp moves 4 KiB of one block; with a digest that is a chunk, kept in shared memory
// on the way and hashed there.
#include "kernels/copy_index.h"
#include "kernels/launch.h"
#include "kernels/launch_batch.cuh"
#include "kernels/warp_hash.cuh"

namespace stem {
namespace {

constexpr uint32_t kDigestedItemsMax = 128;

template <typename AnyTables>
struct Batch {
  CopyIndex index;
  AnyTables tables;
  uint32_t words;  // of one item
  bool gather;
};
struct Digests {
  LaunchedDigest items[kDigestedItemsMax];
};
using SmallBatch = Batch<SmallTables>;
using LargeBatch = Batch<LargeTables>;
using DigestedBatch = Batch<Tables<kPagesMax, kDigestedItemsMax>>;
static_assert(sizeof(SmallBatch) <= 4096);
static_assert(sizeof(LargeBatch) <= 32764 && sizeof(DigestedBatch) + sizeof(Digests) <= 32764,
              "kernel arguments are limited to 32764 bytes");

template <typename Word, typename Args>
__device__ Word* PageWord(const Args& batch, const CopyIndex::Place& place) {
  const LayerPages& layer = batch.tables.layers[place.layer];
  const uint32_t page = batch.tables.pages[blockIdx.y * batch.tables.table_pages + place.table];
  std::byte* const base = place.values ? layer.values : layer.keys;
  return reinterpret_cast<Word*>(base + page * batch.index.page_stride_bytes + place.page_bytes);
}

template <typename Word, typename Args>
__global__ void CopyWords(const __grid_constant__ Args batch) {
  constexpr uint32_t kTileWords = kChunk / sizeof(Word);
  constexpr uint32_t kAtOnce = 8;  // loads in flight before the first store
  const uint32_t tile = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;
  const uint32_t lane = threadIdx.x % kWarp;
  std::byte* const block = batch.tables.blocks[blockIdx.y];
  for (uint32_t first = 0; first < kTileWords; first += kAtOnce * kWarp) {
    Word values[kAtOnce];
    Word* to[kAtOnce];
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      const uint32_t word = tile * kTileWords + first + i * kWarp + lane;
      to[i] = nullptr;
      if (word >= batch.words) continue;
      const CopyIndex::Place place = batch.index.Locate(word);
      Word* const paged = PageWord<Word>(batch, place);
      Word* const packed = reinterpret_cast<Word*>(block + place.block_bytes);
      values[i] = batch.gather ? *paged : *packed;
      to[i] = batch.gather ? packed : paged;
    }
#pragma unroll
    for (uint32_t i = 0; i < kAtOnce; ++i) {
      if (to[i] != nullptr) *to[i] = values[i];
    }
  }
}

// One warp per chunk of the block. `batch.words` covers the whole block.
template <typename Word>
__global__ void CopyChunks(const __grid_constant__ DigestedBatch batch,
                           const __grid_constant__ Digests digests) {
  constexpr uint32_t kTileWords = kChunk / sizeof(Word);
  __shared__ alignas(16) unsigned char kept[kWarpsPerBlock][kChunk];
  const uint32_t chunk = blockIdx.x * kWarpsPerBlock + threadIdx.x / kWarp;
  const uint32_t lane = threadIdx.x % kWarp;
  const LaunchedDigest& digest = digests.items[blockIdx.y];
  if (chunk == 0 && lane < kDigestHeadWords) digest.message[lane] = digest.head.words[lane];
  if (uint64_t{chunk} * kTileWords >= batch.words) return;  // the whole warp
  auto* const keep = reinterpret_cast<Word*>(kept[threadIdx.x / kWarp]);
  auto* const block = reinterpret_cast<Word*>(batch.tables.blocks[blockIdx.y]);
  const uint32_t first = chunk * kTileWords;
  const uint32_t count = batch.words - first < kTileWords ? batch.words - first : kTileWords;
#pragma unroll 8
  for (uint32_t i = lane; i < count; i += kWarp) {
    const CopyIndex::Place place = batch.index.Locate(first + i);
    Word* const paged = place.copied ? PageWord<Word>(batch, place) : nullptr;
    const Word value = batch.gather ? *paged : block[first + i];
    keep[i] = value;
    if (batch.gather) {
      block[first + i] = value;
    } else if (place.copied) {
      *paged = value;
    }
  }
  __syncwarp();
  const uint64_t hash = WarpHash(kept[threadIdx.x / kWarp], uint64_t{count} * sizeof(Word));
  if (lane == 0) digest.message[kDigestHeadWords + chunk] = hash;
}

// One warp per item.
__global__ void HashMessages(const __grid_constant__ Digests digests) {
  const LaunchedDigest& item = digests.items[blockIdx.x];
  const uint64_t length = item.head.words[kDigestHeadWords - 1];
  const uint64_t words = kDigestHeadWords + (length + kChunk - 1) / kChunk;
  const uint64_t hash = WarpHash(reinterpret_cast<const unsigned char*>(item.message), 8 * words);
  if (threadIdx.x == 0) *item.digest = hash;
}

template <typename Args>
void Fill(Args& batch, const CopyPlan& plan, const Cut& cut, uint32_t word_bytes, bool whole_block) {
  batch.index = CopyIndex::Of(PlanOf(plan, cut), word_bytes, whole_block);
  FillTables(batch.tables, plan, cut, plan.layer_bytes());
  batch.words = cut.layer_count * batch.index.layer_words;
  batch.gather = plan.direction == CopyDirection::kGather;
}

dim3 GridOf(uint32_t words, uint32_t word_bytes, uint32_t items) {
  const uint64_t tiles = (uint64_t{words} * word_bytes + kChunk - 1) / kChunk;
  return dim3(static_cast<unsigned>((tiles + kWarpsPerBlock - 1) / kWarpsPerBlock), items);
}

template <typename Args>
cudaError_t LaunchWords(const CopyPlan& plan, const Cut& cut, cudaStream_t stream) {
  const uint32_t word_bytes = WordBytes(plan);
  static thread_local Args batch;
  Fill(batch, plan, cut, word_bytes, false);
  const dim3 grid = GridOf(batch.words, word_bytes, cut.item_count);
  if (word_bytes == 16) {
    CopyWords<uint4><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch);
  } else if (word_bytes == 4) {
    CopyWords<uint32_t><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch);
  } else {
    CopyWords<unsigned char><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch);
  }
  return cudaGetLastError();
}

cudaError_t LaunchChunks(const CopyPlan& plan, const Cut& cut, const LaunchedDigest* digests, cudaStream_t stream) {
  const uint32_t word_bytes = WordBytes(plan);
  static thread_local DigestedBatch batch;
  static thread_local Digests outputs;
  Fill(batch, plan, cut, word_bytes, true);
  for (uint32_t i = 0; i < cut.item_count; ++i) outputs.items[i] = digests[cut.item_first + i];
  const dim3 grid = GridOf(batch.words, word_bytes, cut.item_count);
  if (word_bytes == 16) {
    CopyChunks<uint4><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch, outputs);
  } else if (word_bytes == 4) {
    CopyChunks<uint32_t><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch, outputs);
  } else {
    CopyChunks<unsigned char><<<grid, kWarpsPerBlock * kWarp, 0, stream>>>(batch, outputs);
  }
  HashMessages<<<cut.item_count, kWarp, 0, stream>>>(outputs);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchCopy(const CopyPlan& plan, const LaunchedDigest* digests, cudaStream_t stream) {
  if (digests != nullptr && plan.layer_count <= kLayersMax && plan.table_pages() <= kPagesMax) {
    return ForEachCut(plan, kDigestedItemsMax,
                      [&](const Cut& cut, uint64_t) { return LaunchChunks(plan, cut, digests, stream); });
  }
  const cudaError_t error = ForEachCut(plan, kItemsMax, [&](const Cut& cut, uint64_t ids) {
    return ids <= kFewPages && cut.item_count <= kFewItems ? LaunchWords<SmallBatch>(plan, cut, stream)
                                                           : LaunchWords<LargeBatch>(plan, cut, stream);
  });
  if (error != cudaSuccess || digests == nullptr) return error;
  for (uint32_t i = 0; i < plan.item_count; ++i) {  // a block of several launches is read once more
    const LaunchedDigest& digest = digests[i];
    const cudaError_t hashed = LaunchDigest(digest.head, plan.items[i].block, digest.message, digest.digest, stream);
    if (hashed != cudaSuccess) return hashed;
  }
  return cudaSuccess;
}

}  // namespace stem
