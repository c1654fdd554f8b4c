// The CUDA kernels against the scalar references (tests/support/scalar_*.h, to which the CPU twins are held too) on a GPU.
// Built by run.sh with nvcc alone, no GoogleTest, no abseil.
// Usage: kernels_gpu OUT.json [--few]   Exit: 0 all equal, 1 a difference or a CUDA error, 3 no CUDA device.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "kernels/launch.h"
#include "kernels/xxh3_lanes.h"
#include "tests/gpu/on_gpu.h"
#include "tests/support/scalar_copy.h"
#include "tests/support/scalar_quantize.h"

namespace {

using stem::CopyDirection;
using stem::CopyItem;
using stem::CopyPlan;
using stem::LayerPages;
using stem::QuantPlan;
using stem::gpu::Bytes;
using stem::gpu::Must;
using stem::gpu::OnGpu;
using stem::gpu::RandomBytes;

struct Shape {
  uint32_t layers, pages, page_rows, heads;
  uint64_t key_bytes, value_bytes;
  bool head_major;
  uint64_t gap_bytes;  // between pages
  size_t shift;        // of every address
  uint32_t items = 1;
  bool layer_tables = false;
  uint64_t row_gap_bytes = 0;
  uint32_t block_heads = 0;  // other than heads: a slice of one head, the last of the block and of the page
};

constexpr Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, false, 0, 0},                // one token, one byte
    {3, 1, 16, 8, 256, 256, false, 0, 0},           // one page
    {3, 4, 16, 8, 256, 256, true, 0, 0},            // head-major
    {2, 3, 11, 3, 20, 12, true, 4, 0},              // odd pages, words of 4
    {2, 3, 11, 3, 20, 12, false, 4, 4},             // the same, other order and alignment
    {2, 31, 1, 5, 7, 9, true, 3, 1},                // single bytes, unaligned
    {2, 33, 1, 1, 1152, 0, false, 128, 0},          // latent
    {129, 2, 2, 2, 16, 32, true, 0, 0},             // more layers than one launch takes
    {2, 1024, 2, 2, 16, 48, true, 16, 0, 5},        // more pages than one launch takes
    {130, 300, 1, 1, 16, 32, false, 0, 0, 1, true},  // both, a table for each layer
    {1, 2, 1, 1, 3 << 20, 1 << 20, false, 0, 0},    // opaque pages
    {2, 2, 16, 4, 128, 128, false, 0, 0, 17},       // a batch that needs the large tables
    {1, 1, 4, 2, 64, 64, true, 0, 0, 600},          // more blocks than one launch takes
    {2, 2, 8, 4, 64, 64, false, 0, 0, 3, true, 64},  // K and V rows together
    {2, 2, 8, 4, 64, 32, true, 0, 0, 2, false, 0, 8},   // a slice of a larger block
    {2, 2, 8, 4, 64, 32, false, 0, 0, 2, false, 0, 2},  // of a smaller one
};

// A plan and what it borrows, over planes and blocks that lie one after another from `planes` and `blocks` on.
struct Planned {
  Planned(const Shape& shape, const std::vector<uint32_t>& ids, std::byte* planes, std::byte* blocks) {
    plan.layer_count = shape.layers;
    plan.page_count = shape.pages;
    plan.layer_tables = shape.layer_tables;
    plan.page_rows = shape.page_rows;
    plan.page_heads = plan.block_heads = plan.heads = shape.heads;
    if (shape.block_heads != 0) {
      plan.block_heads = shape.block_heads;
      plan.heads = 1;
      plan.page_head_first = shape.heads - 1;
      plan.block_head_first = shape.block_heads - 1;
    }
    plan.head_major = shape.head_major;
    plan.row_bytes[0] = shape.key_bytes;
    plan.row_bytes[1] = shape.value_bytes;
    for (int i = 0; i < 2; ++i) plan.row_stride_bytes[i] = plan.row_bytes[i] + shape.row_gap_bytes;
    plan.page_stride_bytes =
        std::max(plan.row_stride_bytes[0], plan.row_stride_bytes[1]) * shape.page_rows * shape.heads + shape.gap_bytes;
    plane_bytes = plan.page_stride_bytes * page_ids(shape);
    for (uint32_t i = 0; i < shape.layers; ++i) {
      std::byte* const keys = planes + 2 * i * plane_bytes;
      layers.push_back({keys, shape.value_bytes == 0 ? nullptr : keys + plane_bytes});
    }
    for (uint32_t i = 0; i < shape.items; ++i) {
      items.push_back({ids.data() + i * plan.table_pages(), blocks + i * plan.block_bytes()});
    }
    plan.layers = layers.data();
    plan.items = items.data();
    plan.item_count = shape.items;
  }
  Planned(const Planned&) = delete;

  static uint32_t page_ids(const Shape& shape) { return shape.pages * shape.items + 3; }

  CopyPlan plan;
  uint64_t plane_bytes = 0;
  std::vector<LayerPages> layers;
  std::vector<CopyItem> items;
};

// Page tables of all items, no page twice in a layer.
std::vector<uint32_t> Ids(const Shape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<uint32_t>> layers(shape.layer_tables ? shape.layers : 1);
  for (auto& order : layers) {
    order.resize(Planned::page_ids(shape));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
  }
  std::vector<uint32_t> ids;
  for (uint32_t item = 0; item < shape.items; ++item) {
    for (const auto& order : layers) {
      ids.insert(ids.end(), order.begin() + item * shape.pages, order.begin() + (item + 1) * shape.pages);
    }
  }
  return ids;
}

// Runs `queue` on a stream of its own, until it is done.
template <typename Queue>
void OnStream(Queue queue) {
  cudaStream_t stream = nullptr;
  Must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  Must(cudaStreamSynchronize(nullptr), "before the work");
  Must(queue(stream), "launching");
  Must(cudaStreamSynchronize(stream), "running");
  Must(cudaStreamDestroy(stream), "destroying a stream");
}

// Message and digest of a payload, by the definition.
std::vector<uint64_t> DigestWords(const stem::DigestHead& head, const std::byte* payload, size_t length) {
  std::vector<uint64_t> words(head.words, head.words + stem::kDigestHeadWords);
  for (size_t at = 0; at < length; at += 4096) {
    const auto* chunk = reinterpret_cast<const unsigned char*>(payload) + at;
    words.push_back(stem::xxh3::Hash(chunk, std::min<size_t>(4096, length - at)));
  }
  words.push_back(stem::xxh3::Hash(reinterpret_cast<const unsigned char*>(words.data()), 8 * words.size()));
  return words;
}

bool SameCopy(const Shape& shape, CopyDirection direction, bool digests, uint32_t seed) {
  const std::vector<uint32_t> ids = Ids(shape, seed);
  const Planned size(shape, ids, nullptr, nullptr);
  Bytes planes = RandomBytes(2 * shape.layers * size.plane_bytes, seed);
  Bytes blocks = RandomBytes(shape.items * size.plan.block_bytes(), seed + 1);
  const OnGpu gpu_planes(planes, shape.shift), gpu_blocks(blocks, shape.shift);
  Planned host(shape, ids, planes.data(), blocks.data()), gpu(shape, ids, gpu_planes.data(), gpu_blocks.data());
  host.plan.direction = gpu.plan.direction = direction;
  stem::RunScalar(host.plan);
  const uint64_t bytes = size.plan.block_bytes();
  const size_t words = stem::kDigestHeadWords + (bytes + 4095) / 4096 + 1;
  const OnGpu gpu_words(Bytes(8 * words * shape.items), 0);
  std::vector<stem::LaunchedDigest> outputs(shape.items);
  for (uint32_t i = 0; i < shape.items; ++i) {
    auto* const message = reinterpret_cast<uint64_t*>(gpu_words.data()) + i * words;
    outputs[i] = {{{seed, i, 3, 4, bytes}}, message, message + words - 1};
  }
  OnStream([&](cudaStream_t s) { return stem::LaunchCopy(gpu.plan, digests ? outputs.data() : nullptr, s); });
  bool same = gpu_planes.Back() == planes && gpu_blocks.Back() == blocks;
  const Bytes back = gpu_words.Back();
  for (uint32_t i = 0; digests && i < shape.items; ++i) {
    const auto expected = DigestWords(outputs[i].head, blocks.data() + i * bytes, bytes);
    same = same && std::memcmp(&back[8 * words * i], expected.data(), 8 * words) == 0;
  }
  return same;
}

bool SameDigest(size_t length, size_t shift, uint32_t seed) {
  const Bytes payload = RandomBytes(length, seed);
  const stem::DigestHead head = {{seed, ~uint64_t{seed}, 3, 4, length}};
  const std::vector<uint64_t> expected = DigestWords(head, payload.data(), length);
  const OnGpu gpu_payload(payload, shift), gpu_words(Bytes(8 * expected.size()), 0);
  auto* const words = reinterpret_cast<uint64_t*>(gpu_words.data());
  OnStream([&](cudaStream_t stream) {
    return stem::LaunchDigest(head, gpu_payload.data(), words, words + expected.size() - 1, stream);
  });
  return std::memcmp(gpu_words.Back().data(), expected.data(), 8 * expected.size()) == 0;
}

// Planes of numbers, some of them large, and a row of zeros, one with an infinity and one with a NaN.
Bytes Numbers(size_t size, stem::quant::Element element, uint32_t seed) {
  Bytes bytes(size);
  std::mt19937 random(seed);
  std::student_t_distribution<float> heavy(2);
  const size_t width = element == stem::quant::Element::kFp32 ? 4 : 2;
  for (size_t at = 0; at + width <= size; at += width) {
    const size_t place = at / width;
    const float value = place < 64 ? 0 : place == 150 ? INFINITY : place == 250 ? NAN : heavy(random);
    stem::WriteElement(&bytes[at], element, value);
  }
  return bytes;
}

bool SameQuantized(stem::quant::Element element, stem::quant::Codec codec, stem::ScaleAxis axis, uint32_t elements,
                   uint32_t seed) {
  const uint64_t width = element == stem::quant::Element::kFp32 ? 4 : 2;
  const Shape shape = {2, 3, 11, 3, elements * width, (elements + 2) * width, elements % 4 == 0, 4 * width, 0, 2};
  const std::vector<uint32_t> ids = Ids(shape, seed);
  const Planned size(shape, ids, nullptr, nullptr);
  Bytes planes = Numbers(2 * shape.layers * size.plane_bytes, element, seed);
  Bytes blocks(shape.items * size.plan.block_bytes());  // more than quantized ones need
  const OnGpu gpu_planes(planes, 0), gpu_blocks(blocks, 0);
  bool same = true;
  for (const CopyDirection direction : {CopyDirection::kGather, CopyDirection::kScatter}) {
    Planned host(shape, ids, planes.data(), blocks.data()), gpu(shape, ids, gpu_planes.data(), gpu_blocks.data());
    QuantPlan host_plan, gpu_plan;
    for (auto [plan, planned] : {std::pair{&host_plan, &host}, std::pair{&gpu_plan, &gpu}}) {
      plan->copy = planned->plan;
      plan->copy.direction = direction;
      plan->element = element;
      plan->codec = codec;
      plan->axis = axis;
      plan->elements[0] = elements;
      plan->elements[1] = elements + 2;
    }
    stem::RunScalar(host_plan);
    OnStream([&](cudaStream_t stream) { return stem::LaunchQuantized(gpu_plan, stream); });
    same = same && gpu_planes.Back() == planes && gpu_blocks.Back() == blocks;
  }
  return same;
}

bool SameCompaction(const Shape& shape, uint32_t seed) {
  const std::vector<uint32_t> ids = Ids(shape, seed);
  const Planned size(shape, ids, nullptr, nullptr);
  Bytes planes = RandomBytes(2 * shape.layers * size.plane_bytes, seed);
  const OnGpu gpu_planes(planes, shape.shift);
  std::vector<uint32_t> kept;
  std::mt19937 random(seed);
  for (uint32_t token = 0; token < size.plan.rows(); ++token) {
    if (random() % 3 == 0) kept.push_back(token);
  }
  if (kept.empty()) kept.push_back(0);
  const auto upload = [](const std::vector<uint32_t>& list) {
    Bytes bytes(4 * list.size());
    std::memcpy(bytes.data(), list.data(), bytes.size());
    return bytes;
  };
  const OnGpu gpu_kept(upload(kept), 0), gpu_ids(upload(ids), 0);
  // The reference: rows of the block of a gather, put back at their new places one by one.
  Bytes block(size.plan.block_bytes());
  Planned host(shape, ids, planes.data(), block.data());
  stem::RunScalar(host.plan);
  stem::ForEachCopiedByte(host.plan, host.items[0], [&](std::byte& paged, uint64_t at) {
    const int plane = at % host.plan.layer_bytes() >= host.plan.plane_bytes(0) ? 1 : 0;
    const uint64_t token_bytes = shape.heads * host.plan.row_bytes[plane];
    const uint64_t in_plane = at % host.plan.layer_bytes() - (plane == 0 ? 0 : host.plan.plane_bytes(0));
    const uint64_t token = in_plane / token_bytes;
    if (token < kept.size()) paged = block[at + (kept[token] - token) * token_bytes];
  });
  Planned gpu(shape, ids, gpu_planes.data(), nullptr);
  gpu.items[0].pages = reinterpret_cast<const uint32_t*>(gpu_ids.data());
  OnStream([&](cudaStream_t stream) {
    return stem::LaunchCompaction(gpu.plan, reinterpret_cast<const uint32_t*>(gpu_kept.data()),
                                  static_cast<uint32_t>(kept.size()), stream);
  });
  return gpu_planes.Back() == planes;
}

class Report {
 public:
  void Check(bool same, const std::string& name) {
    ++cases_;
    if (same) return;
    std::fprintf(stderr, "differs from the reference: %s\n", name.c_str());
    failures_ += (failures_.empty() ? "\"" : ", \"") + name + "\"";
  }
  bool ok() const { return failures_.empty(); }
  int Write(const char* path, const char* device) const {
    std::FILE* const out = std::fopen(path, "w");
    if (out == nullptr) {
      std::fprintf(stderr, "cannot write %s\n", path);
      return 1;
    }
    std::fprintf(out, "{\"device\": \"%s\", \"cases\": %d, \"failures\": [%s]}\n", device, cases_, failures_.c_str());
    std::fclose(out);
    std::printf("%s: %d cases, %s\n", device, cases_, ok() ? "all equal the references" : "some differ");
    return ok() ? 0 : 1;
  }

 private:
  int cases_ = 0;
  std::string failures_;
};

void CheckCopies(Report& report, bool few) {
  uint32_t seed = 1;
  for (size_t i = 0; i < std::size(kShapes); ++i, seed += 2) {
    const Shape& shape = kShapes[i];
    if (few && shape.layers * shape.pages * shape.items > 600) continue;
    const std::string name = " of shape " + std::to_string(i);
    for (const bool digests : {false, true}) {
      const char* const with = digests ? " with digest" : "";
      if (!digests || shape.block_heads == 0) {
        report.Check(SameCopy(shape, CopyDirection::kGather, digests, seed), "gather" + name + with);
      }
      report.Check(SameCopy(shape, CopyDirection::kScatter, digests, seed), "scatter" + name + with);
    }
    if (shape.items == 1 && !shape.layer_tables && shape.block_heads == 0) {
      report.Check(SameCompaction(shape, seed), "compaction" + name);
    }
  }
}

void CheckDigests(Report& report, bool few) {
  uint32_t seed = 1000;
  for (size_t length : {0, 1, 3, 8, 16, 17, 31, 32, 33, 128, 129, 240, 241, 1024, 1025, 4095, 4096, 4097, 65536,
                        26 * 4096, (2 << 20) + 1}) {
    if (few && length > 65536) continue;
    for (size_t shift : {0, 1, 8}) {
      report.Check(SameDigest(length, shift, seed++),
                   "digest of " + std::to_string(length) + " bytes at " + std::to_string(shift));
    }
  }
}

void CheckQuantization(Report& report, bool few) {
  uint32_t seed = 2000;
  for (int element = 0; element < 3; ++element) {
    for (int codec = 0; codec < 4; ++codec) {
      for (const auto axis : {stem::ScaleAxis::kToken, stem::ScaleAxis::kChannel}) {
        for (const uint32_t elements : {2U, 31U, 32U, 62U, 64U, 66U, 128U, 574U, 576U}) {  // around a warp's share
          if ((codec == 3 && elements % 2 != 0) || (few && elements > 66)) continue;
          report.Check(SameQuantized(static_cast<stem::quant::Element>(element), static_cast<stem::quant::Codec>(codec),
                                     axis, elements, seed++),
                       "element " + std::to_string(element) + " codec " + std::to_string(codec) +
                           (axis == stem::ScaleAxis::kToken ? " by token, " : " by channel, ") + std::to_string(elements));
        }
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool few = argc == 3 && std::strcmp(argv[2], "--few") == 0;
  if (argc != 2 && !few) {
    std::fprintf(stderr, "usage: %s OUT.json [--few]\n", argv[0]);
    return 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 3;
  cudaDeviceProp device;
  Must(cudaGetDeviceProperties(&device, 0), "device properties");
  Report report;
  CheckCopies(report, few);
  CheckDigests(report, few);
  CheckQuantization(report, few);
  return report.Write(argv[1], device.name);
}
