// The CUDA kernels against their CPU twins on a GPU. Built by run.sh with nvcc alone, no GoogleTest, no abseil.
// Usage: kernels_gpu OUT.json   Exit: 0 all equal, 1 a difference or a CUDA error, 3 no CUDA device.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/launch.h"
#include "kernels/xxh3_lanes.h"

namespace {

using stem::CopyDirection;
using stem::CopyPlan;
using stem::LayerPages;

// Ends the program on a CUDA error: nothing after it would mean anything.
void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s, %s\n", what, cudaGetErrorName(error), cudaGetErrorString(error));
  std::exit(1);
}

using Bytes = std::vector<std::byte>;

Bytes RandomBytes(size_t size, uint32_t seed) {
  Bytes bytes(size);
  std::mt19937 random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// GPU memory with the bytes of `host`, which start `shift` bytes into it.
class OnGpu {
 public:
  OnGpu(const Bytes& host, size_t shift) : size_(host.size()), shift_(shift) {
    Must(cudaMalloc(&memory_, size_ + shift_ + 1), "cudaMalloc");
    Must(cudaMemcpy(data(), host.data(), size_, cudaMemcpyHostToDevice), "copy to the GPU");
  }
  OnGpu(const OnGpu&) = delete;
  ~OnGpu() { cudaFree(memory_); }
  std::byte* data() const { return static_cast<std::byte*>(memory_) + shift_; }
  Bytes Back() const {
    Bytes bytes(size_);
    Must(cudaMemcpy(bytes.data(), data(), size_, cudaMemcpyDeviceToHost), "copy from the GPU");
    return bytes;
  }

 private:
  void* memory_ = nullptr;
  size_t size_;
  size_t shift_;
};

struct Shape {
  uint32_t layers, pages, page_rows, heads;
  uint64_t key_bytes, value_bytes;
  bool head_major;
  uint64_t gap_bytes;  // between pages
  size_t shift;        // of every address
};

constexpr Shape kShapes[] = {
    {1, 1, 1, 1, 1, 0, false, 0, 0},           // one token, one byte
    {3, 1, 16, 8, 256, 256, false, 0, 0},      // one page
    {3, 4, 16, 8, 256, 256, true, 0, 0},       // head-major
    {2, 3, 11, 3, 20, 12, true, 4, 0},         // odd pages, words of 4
    {2, 3, 11, 3, 20, 12, false, 4, 4},        // the same, other order and alignment
    {2, 31, 1, 5, 7, 9, true, 3, 1},           // single bytes, unaligned
    {2, 33, 1, 1, 1152, 0, false, 128, 0},     // latent
    {129, 2, 2, 2, 16, 32, true, 0, 0},        // more layers than one launch takes
    {2, 257, 2, 2, 16, 48, true, 16, 0},       // more pages than one launch takes
    {130, 300, 1, 1, 16, 32, false, 0, 0},     // both
    {1, 2, 1, 1, 3 << 20, 1 << 20, false, 0, 0},  // opaque pages that many thread blocks share
};

// The plan of `shape` over planes that lie one after another from `planes` on.
CopyPlan PlanOf(const Shape& shape, std::byte* planes, const std::vector<uint32_t>& pages, std::byte* block,
                std::vector<LayerPages>& layers) {
  CopyPlan plan;
  plan.layer_count = shape.layers;
  plan.pages = pages.data();
  plan.page_count = shape.pages;
  plan.page_rows = shape.page_rows;
  plan.heads = shape.heads;
  plan.head_major = shape.head_major;
  plan.row_bytes[0] = shape.key_bytes;
  plan.row_bytes[1] = shape.value_bytes;
  plan.page_stride_bytes = std::max(plan.page_bytes(0), plan.page_bytes(1)) + shape.gap_bytes;
  const uint64_t plane_bytes = plan.page_stride_bytes * (shape.pages + 3);
  for (uint32_t i = 0; i < shape.layers; ++i, planes += 2 * plane_bytes) {
    layers.push_back({planes, shape.value_bytes == 0 ? nullptr : planes + plane_bytes});
  }
  plan.layers = layers.data();
  plan.block = block;
  return plan;
}

bool SameCopy(const Shape& shape, CopyDirection direction, uint32_t seed) {
  std::vector<uint32_t> pages(shape.pages + 3);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(seed));
  std::vector<LayerPages> host_layers, gpu_layers;
  const CopyPlan size = PlanOf(shape, nullptr, pages, nullptr, host_layers);
  Bytes planes = RandomBytes(2 * shape.layers * size.page_stride_bytes * (shape.pages + 3), seed);
  Bytes block = RandomBytes(shape.layers * size.layer_bytes(), seed + 1);
  const OnGpu gpu_planes(planes, shape.shift), gpu_block(block, shape.shift);
  host_layers.clear();
  CopyPlan host = PlanOf(shape, planes.data(), pages, block.data(), host_layers);
  CopyPlan gpu = PlanOf(shape, gpu_planes.data(), pages, gpu_block.data(), gpu_layers);
  host.direction = gpu.direction = direction;
  stem::RunOnHost(host);
  cudaStream_t stream = nullptr;
  Must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  Must(cudaStreamSynchronize(nullptr), "before the copy");
  Must(stem::LaunchCopy(gpu, stream), "launching a copy");
  Must(cudaStreamSynchronize(stream), "running a copy");
  Must(cudaStreamDestroy(stream), "destroying a stream");
  return gpu_planes.Back() == planes && gpu_block.Back() == block;
}

bool SameDigest(size_t length, size_t shift, uint32_t seed) {
  const Bytes payload = RandomBytes(length, seed);
  stem::DigestHead head = {{seed, ~uint64_t{seed}, 3, 4, length}};
  std::vector<uint64_t> message(head.words, head.words + stem::kDigestHeadWords);
  for (size_t at = 0; at < length; at += 4096) {
    const auto* chunk = reinterpret_cast<const unsigned char*>(payload.data()) + at;
    message.push_back(stem::xxh3::Hash(chunk, std::min<size_t>(4096, length - at)));
  }
  const uint64_t digest =
      stem::xxh3::Hash(reinterpret_cast<const unsigned char*>(message.data()), 8 * message.size());
  const OnGpu gpu_payload(payload, shift), gpu_words(Bytes(8 * (message.size() + 1)), 0);
  auto* const words = reinterpret_cast<uint64_t*>(gpu_words.data());
  Must(stem::LaunchDigest(head, gpu_payload.data(), words, words + message.size(), nullptr), "launching a digest");
  Must(cudaStreamSynchronize(nullptr), "running a digest");
  const Bytes back = gpu_words.Back();
  return std::memcmp(back.data(), message.data(), 8 * message.size()) == 0 &&
         std::memcmp(&back[8 * message.size()], &digest, 8) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s OUT.json\n", argv[0]);
    return 2;
  }
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 3;
  cudaDeviceProp device;
  Must(cudaGetDeviceProperties(&device, 0), "device properties");
  std::string failures;
  int cases = 0;
  const auto check = [&](bool same, const std::string& name) {
    ++cases;
    if (same) return;
    std::fprintf(stderr, "differs from the CPU twin: %s\n", name.c_str());
    failures += (failures.empty() ? "\"" : ", \"") + name + "\"";
  };
  uint32_t seed = 1;
  for (size_t i = 0; i < std::size(kShapes); ++i, seed += 2) {
    check(SameCopy(kShapes[i], CopyDirection::kGather, seed), "gather of shape " + std::to_string(i));
    check(SameCopy(kShapes[i], CopyDirection::kScatter, seed), "scatter of shape " + std::to_string(i));
  }
  for (size_t length : {0, 1, 3, 8, 16, 17, 31, 32, 33, 128, 129, 240, 241, 1024, 1025, 4095, 4096, 4097, 65536,
                        26 * 4096, (2 << 20) + 1}) {
    for (size_t shift : {0, 1, 8}) {
      check(SameDigest(length, shift, seed++),
            "digest of " + std::to_string(length) + " bytes at " + std::to_string(shift));
    }
  }
  std::FILE* out = std::fopen(argv[1], "w");
  if (out == nullptr) {
    std::fprintf(stderr, "cannot write %s\n", argv[1]);
    return 1;
  }
  std::fprintf(out, "{\"built\": true, \"ran\": true, \"device\": \"%s\", \"cases\": %d, \"failures\": [%s]}\n",
               device.name, cases, failures.c_str());
  std::fclose(out);
  std::printf("%s: %d cases, %s\n", device.name, cases, failures.empty() ? "all equal the CPU twins" : "some differ");
  return failures.empty() ? 0 : 1;
}
