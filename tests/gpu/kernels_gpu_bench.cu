// GB/s of the CUDA kernels on GPU memory, each beside what this GPU reaches in the same run: a device-to-device copy of
// as many bytes, or a kernel that only reads. Built by run.sh with nvcc alone.
// Usage: kernels_gpu_bench OUT.json   Exit: 0 measured, 1 a CUDA error, 3 no CUDA device.
// Blocks are 32 layers x 16 tokens x 8 heads x 128 x bf16 K and V = 2 MiB; 256 of them a call, in random pages.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/launch.h"
#include "tests/gpu/on_gpu.h"

namespace {

using stem::CopyDirection;
using stem::CopyItem;
using stem::CopyPlan;
using stem::LayerPages;
using stem::gpu::Must;

constexpr uint32_t kLayers = 32, kTokens = 16, kHeads = 8, kBlocks = 256;
constexpr uint64_t kRowBytes = 256, kPageBytes = kTokens * kHeads * kRowBytes;
constexpr uint64_t kBlockBytes = 2 * kLayers * kPageBytes, kBytes = kBlocks * kBlockBytes;
constexpr int kRounds = 20;

std::byte* Device(uint64_t bytes) {
  void* memory = nullptr;
  Must(cudaMalloc(&memory, bytes), "cudaMalloc");
  Must(cudaMemset(memory, 0x3C, bytes), "cudaMemset");
  return static_cast<std::byte*>(memory);
}

// The limit of a digest: every word read once, one word written by each thread that could not be left out.
__global__ void ReadAll(const uint4* words, uint64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint4 word = words[i];
    sum ^= word.x ^ word.y ^ word.z ^ word.w;
  }
  if (sum == 0x12345678) *out = sum;
}

// Median seconds of one run of `queue`, by events on its stream.
template <typename Queue>
double Seconds(cudaStream_t stream, Queue queue) {
  cudaEvent_t start, end;
  Must(cudaEventCreate(&start), "creating an event");
  Must(cudaEventCreate(&end), "creating an event");
  std::vector<double> seconds;
  for (int round = 0; round < kRounds + 3; ++round) {
    Must(cudaEventRecord(start, stream), "recording");
    Must(queue(), "launching");
    Must(cudaEventRecord(end, stream), "recording");
    Must(cudaEventSynchronize(end), "running");
    float milliseconds = 0;
    Must(cudaEventElapsedTime(&milliseconds, start, end), "timing");
    if (round >= 3) seconds.push_back(milliseconds / 1e3);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  std::nth_element(seconds.begin(), seconds.begin() + kRounds / 2, seconds.end());
  return seconds[kRounds / 2];
}

struct Work {
  Work() : pages(Device(kBytes)), blocks(Device(kBytes)), words(Device(8 * kWords * kBlocks)), ids(kBlocks) {
    Must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(1));
    for (uint32_t i = 0; i < kLayers; ++i) {
      std::byte* const keys = pages + 2 * i * uint64_t{kBlocks} * kPageBytes;
      layers.push_back({keys, keys + kBlocks * kPageBytes});
    }
    for (uint32_t i = 0; i < kBlocks; ++i) {
      items.push_back({&ids[i], blocks + i * kBlockBytes});
      auto* const message = reinterpret_cast<uint64_t*>(words) + i * kWords;
      digests.push_back({{{1, 2, 3, i, kBlockBytes}}, message, message + kWords - 1});
    }
  }

  CopyPlan Plan(CopyDirection direction, bool head_major) const {
    CopyPlan plan;
    plan.layers = layers.data();
    plan.layer_count = kLayers;
    plan.items = items.data();
    plan.item_count = kBlocks;
    plan.page_count = 1;
    plan.head_major = head_major;
    plan.page_stride_bytes = kPageBytes;
    plan.page_rows = kTokens;
    plan.page_heads = plan.block_heads = plan.heads = kHeads;
    for (int i = 0; i < 2; ++i) plan.row_bytes[i] = plan.row_stride_bytes[i] = kRowBytes;
    plan.direction = direction;
    return plan;
  }

  static constexpr uint64_t kWords = stem::kDigestHeadWords + kBlockBytes / 4096 + 1;
  std::byte* pages;
  std::byte* blocks;
  std::byte* words;
  std::vector<uint32_t> ids;
  std::vector<LayerPages> layers;
  std::vector<CopyItem> items;
  std::vector<stem::LaunchedDigest> digests;
  cudaStream_t stream = nullptr;
};

class Results {
 public:
  // `bytes` were asked for in `seconds`; `limit`: what the machine takes for as many.
  void Add(const std::string& name, double seconds, double limit) {
    char line[256];
    std::snprintf(line, sizeof(line), "{\"name\": \"%s\", \"bytes\": %llu, \"gbps\": %.1f, \"of_limit\": %.3f}",
                  name.c_str(), static_cast<unsigned long long>(kBytes), kBytes / seconds / 1e9, limit / seconds);
    std::printf("%-32s %8.1f GB/s  %.3f of the limit\n", name.c_str(), kBytes / seconds / 1e9, limit / seconds);
    lines_ += (lines_.empty() ? "" : ", ") + std::string(line);
  }
  const std::string& lines() const { return lines_; }

 private:
  std::string lines_;
};

void MeasureCopies(const Work& work, double copy, Results& results) {
  for (const bool head_major : {false, true}) {
    for (const CopyDirection direction : {CopyDirection::kGather, CopyDirection::kScatter}) {
      const CopyPlan plan = work.Plan(direction, head_major);
      const std::string name =
          std::string(direction == CopyDirection::kGather ? "gather_" : "scatter_") + (head_major ? "hnd" : "nhd");
      results.Add(name, Seconds(work.stream, [&] { return stem::LaunchCopy(plan, nullptr, work.stream); }), copy);
      results.Add(name + "_digest",
                  Seconds(work.stream, [&] { return stem::LaunchCopy(plan, work.digests.data(), work.stream); }), copy);
    }
  }
}

void MeasureQuantization(const Work& work, double copy, Results& results) {
  const char* const codecs[] = {"e4m3", "e5m2", "int8", "int4"};
  for (const auto axis : {stem::ScaleAxis::kToken, stem::ScaleAxis::kChannel}) {
    for (int codec = 0; codec < 4; ++codec) {
      for (const CopyDirection direction : {CopyDirection::kGather, CopyDirection::kScatter}) {
        stem::QuantPlan plan;
        plan.copy = work.Plan(direction, false);
        plan.codec = static_cast<stem::quant::Codec>(codec);
        plan.axis = axis;
        plan.elements[0] = plan.elements[1] = kRowBytes / 2;
        results.Add(std::string(direction == CopyDirection::kGather ? "quantize_" : "dequantize_") + codecs[codec] +
                        (axis == stem::ScaleAxis::kToken ? "_token" : "_channel"),
                    Seconds(work.stream, [&] { return stem::LaunchQuantized(plan, work.stream); }), copy);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s OUT.json\n", argv[0]);
    return 2;
  }
  int devices = 0, driver = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return 3;
  cudaDeviceProp device;
  Must(cudaGetDeviceProperties(&device, 0), "device properties");
  Must(cudaDriverGetVersion(&driver), "driver version");
  const Work work;
  const double copy = Seconds(work.stream, [&] {
    return cudaMemcpyAsync(work.blocks, work.pages, kBytes, cudaMemcpyDeviceToDevice, work.stream);
  });
  const double read = Seconds(work.stream, [&] {
    ReadAll<<<16 * device.multiProcessorCount, 256, 0, work.stream>>>(reinterpret_cast<const uint4*>(work.pages),
                                                                      kBytes / 16, reinterpret_cast<uint32_t*>(work.words));
    return cudaGetLastError();
  });
  Results results;
  MeasureCopies(work, copy, results);
  const stem::LaunchedDigest& digest = work.digests.front();
  results.Add("digest", Seconds(work.stream, [&] {
                cudaError_t error = cudaSuccess;
                for (uint32_t i = 0; i < kBlocks && error == cudaSuccess; ++i) {
                  error = stem::LaunchDigest(digest.head, work.items[i].block, work.digests[i].message,
                                             work.digests[i].digest, work.stream);
                }
                return error;
              }), read);
  MeasureQuantization(work, copy, results);
  std::FILE* const out = std::fopen(argv[1], "w");
  if (out == nullptr) {
    std::fprintf(stderr, "cannot write %s\n", argv[1]);
    return 1;
  }
  std::fprintf(out, "{\"device\": \"%s\", \"driver\": %d, \"copy_gbps\": %.1f, \"read_gbps\": %.1f, \"results\": [%s]}\n",
               device.name, driver, kBytes / copy / 1e9, kBytes / read / 1e9, results.lines().c_str());
  std::fclose(out);
  return 0;
}
