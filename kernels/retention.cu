// Compaction of pages on the GPU, in place: a thread takes one word of every row through all kept tokens in order. Kept
// tokens ascend, so no place is read after it was written, and threads share no word.
#include "kernels/copy_index.h"
#include "kernels/launch.h"
#include "kernels/launch_batch.cuh"

namespace stem {
namespace {

constexpr uint32_t kThreads = 128;
constexpr uint32_t kAtOnce = 8;  // loads in flight before the first store

struct Compaction {
  LayerPages layers[kLayersMax];
  const uint32_t* pages;
  const uint32_t* kept;
  uint32_t kept_count;
  uint32_t planes;
  uint32_t heads;
  Divider page_rows;
  uint32_t row_words[2];
  uint64_t page_stride_bytes;
  uint64_t page_token_bytes[2];
  uint64_t page_head_bytes[2];
};

// blockIdx: x words of a token's heads, y layer and plane.
template <typename Word>
__global__ void Compact(const __grid_constant__ Compaction work) {
  const uint32_t plane = blockIdx.y % work.planes;
  const LayerPages& layer = work.layers[blockIdx.y / work.planes];
  const uint32_t word = blockIdx.x * kThreads + threadIdx.x;
  const uint32_t head = word / work.row_words[plane];
  if (head >= work.heads) return;
  std::byte* const base = (plane == 0 ? layer.keys : layer.values) + head * work.page_head_bytes[plane] +
                          word % work.row_words[plane] * sizeof(Word);
  const auto place = [&](uint32_t token) {
    const uint32_t page = work.page_rows.Quotient(token);
    return reinterpret_cast<Word*>(base + work.pages[page] * work.page_stride_bytes +
                                   (token - page * work.page_rows.divisor) * work.page_token_bytes[plane]);
  };
  for (uint32_t i = 0; i < work.kept_count; i += kAtOnce) {
    const uint32_t count = work.kept_count - i < kAtOnce ? work.kept_count - i : kAtOnce;
    Word values[kAtOnce];
    for (uint32_t j = 0; j < count; ++j) values[j] = *place(work.kept[i + j]);
    for (uint32_t j = 0; j < count; ++j) *place(i + j) = values[j];
  }
}

}  // namespace

cudaError_t LaunchCompaction(const CopyPlan& plan, const uint32_t* kept, uint32_t kept_count, cudaStream_t stream) {
  CopyPlan without_block = plan;
  without_block.item_count = 0;
  const uint32_t word_bytes = WordBytes(without_block);
  Compaction work = {};
  work.pages = plan.items[0].pages;
  work.kept = kept;
  work.kept_count = kept_count;
  work.planes = plan.row_bytes[1] == 0 ? 1 : 2;
  work.heads = plan.heads;
  work.page_rows = Divider::Of(plan.page_rows);
  work.page_stride_bytes = plan.page_stride_bytes;
  for (int plane = 0; plane < 2; ++plane) {
    const uint64_t page_row = plan.row_stride_bytes[plane];
    work.row_words[plane] = static_cast<uint32_t>(plan.row_bytes[plane] / word_bytes);
    work.page_token_bytes[plane] = plan.head_major ? page_row : plan.page_heads * page_row;
    work.page_head_bytes[plane] = plan.head_major ? plan.page_rows * page_row : page_row;
  }
  const uint32_t words = work.heads * (work.row_words[0] > work.row_words[1] ? work.row_words[0] : work.row_words[1]);
  for (uint32_t layer = 0; layer < plan.layer_count; layer += kLayersMax) {
    const uint32_t layers = Smaller(kLayersMax, plan.layer_count - layer);
    for (uint32_t i = 0; i < layers; ++i) work.layers[i] = plan.layers[layer + i];
    const dim3 grid((words + kThreads - 1) / kThreads, layers * work.planes);
    if (word_bytes == 16) {
      Compact<uint4><<<grid, kThreads, 0, stream>>>(work);
    } else if (word_bytes == 4) {
      Compact<uint32_t><<<grid, kThreads, 0, stream>>>(work);
    } else {
      Compact<unsigned char><<<grid, kThreads, 0, stream>>>(work);
    }
  }
  return cudaGetLastError();
}

}  // namespace stem
