// Gather and scatter on the GPU. A plan is cut into launches whose layer bases and page ids fit into the kernel's
// arguments: no table in device memory, so nothing to allocate, copy or keep alive.
#include "kernels/launch.h"

namespace stem {
namespace {

constexpr uint32_t kLayersPerLaunch = 128;
constexpr uint32_t kPagesPerLaunch = 256;
constexpr unsigned kThreads = 256;
constexpr unsigned kSplitsMax = 64;   // thread blocks that share one page
constexpr unsigned kWordsPerThread = 4;

struct Slice {
  LayerPages layers[kLayersPerLaunch];
  uint32_t pages[kPagesPerLaunch];
  uint64_t page_stride_bytes;
  uint64_t layer_bytes;     // of the whole block's layer
  uint64_t row_words[2];
  std::byte* block[2];      // K and V of this slice's first layer and page
  uint32_t page_count;
  uint32_t page_rows;
  uint32_t heads;
  uint32_t planes;
  bool head_major;
  bool gather;
};
static_assert(sizeof(Slice) <= 4096, "kernel arguments are limited to 4 KiB before CUDA 12.1's drivers");

// One thread block (or `gridDim.y` of them) per layer, plane and page.
template <typename Word>
__global__ void CopyPages(const __grid_constant__ Slice slice) {
  const uint32_t page = blockIdx.x % slice.page_count;
  const uint32_t plane = blockIdx.x / slice.page_count % slice.planes;
  const uint32_t layer = blockIdx.x / slice.page_count / slice.planes;
  const uint64_t row_words = slice.row_words[plane];
  const uint64_t page_words = row_words * slice.page_rows * slice.heads;
  std::byte* const base = plane == 0 ? slice.layers[layer].keys : slice.layers[layer].values;
  auto* const paged = reinterpret_cast<Word*>(base + slice.pages[page] * slice.page_stride_bytes);
  auto* const block = reinterpret_cast<Word*>(slice.block[plane] + layer * slice.layer_bytes) + page * page_words;
  const uint64_t step = uint64_t{gridDim.y} * blockDim.x;
  for (uint64_t word = uint64_t{blockIdx.y} * blockDim.x + threadIdx.x; word < page_words; word += step) {
    uint64_t at = word;
    if (slice.head_major) {
      const uint64_t row = word / row_words / slice.heads;
      const uint64_t head = word / row_words % slice.heads;
      at = (head * slice.page_rows + row) * row_words + word % row_words;
    }
    if (slice.gather) {
      block[word] = paged[at];
    } else {
      paged[at] = block[word];
    }
  }
}

// The widest of 16, 4 and 1 bytes that every address and row is a multiple of.
uint64_t WordBytes(const CopyPlan& plan) {
  uint64_t bits = plan.row_bytes[0] | plan.row_bytes[1] | plan.page_stride_bytes;
  bits |= reinterpret_cast<uintptr_t>(plan.block);
  for (uint32_t i = 0; i < plan.layer_count; ++i) {
    bits |= reinterpret_cast<uintptr_t>(plan.layers[i].keys) | reinterpret_cast<uintptr_t>(plan.layers[i].values);
  }
  return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 1;
}

cudaError_t LaunchSlice(const Slice& slice, uint32_t layer_count, uint64_t word_bytes, cudaStream_t stream) {
  const uint64_t page_words = slice.row_words[0] * slice.page_rows * slice.heads;
  const uint64_t splits = (page_words + kThreads * kWordsPerThread - 1) / (kThreads * kWordsPerThread);
  const dim3 grid(layer_count * slice.planes * slice.page_count,
                  static_cast<unsigned>(splits < kSplitsMax ? splits : kSplitsMax));
  if (word_bytes == 16) {
    CopyPages<uint4><<<grid, kThreads, 0, stream>>>(slice);
  } else if (word_bytes == 4) {
    CopyPages<uint32_t><<<grid, kThreads, 0, stream>>>(slice);
  } else {
    CopyPages<unsigned char><<<grid, kThreads, 0, stream>>>(slice);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchCopy(const CopyPlan& plan, cudaStream_t stream) {
  const uint64_t word_bytes = WordBytes(plan);
  Slice slice = {};
  slice.page_stride_bytes = plan.page_stride_bytes;
  slice.layer_bytes = plan.layer_bytes();
  slice.row_words[0] = plan.row_bytes[0] / word_bytes;
  slice.row_words[1] = plan.row_bytes[1] / word_bytes;
  slice.page_rows = plan.page_rows;
  slice.heads = plan.heads;
  slice.planes = plan.row_bytes[1] == 0 ? 1 : 2;
  slice.head_major = plan.head_major;
  slice.gather = plan.direction == CopyDirection::kGather;
  for (uint32_t layer = 0; layer < plan.layer_count; layer += kLayersPerLaunch) {
    const uint32_t layers = plan.layer_count - layer < kLayersPerLaunch ? plan.layer_count - layer : kLayersPerLaunch;
    for (uint32_t i = 0; i < layers; ++i) slice.layers[i] = plan.layers[layer + i];
    for (uint32_t page = 0; page < plan.page_count; page += kPagesPerLaunch) {
      slice.page_count = plan.page_count - page < kPagesPerLaunch ? plan.page_count - page : kPagesPerLaunch;
      for (uint32_t i = 0; i < slice.page_count; ++i) slice.pages[i] = plan.pages[page + i];
      std::byte* const block = plan.block + layer * plan.layer_bytes();
      slice.block[0] = block + page * plan.page_bytes(0);
      slice.block[1] = block + plan.page_count * plan.page_bytes(0) + page * plan.page_bytes(1);
      if (const cudaError_t error = LaunchSlice(slice, layers, word_bytes, stream); error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

}  // namespace stem
