// An engine whose pages only a GPU can touch, against real nodes: saved by a PageMover through one node, loaded through another into other
// pages, all bytes compared, in vLLM's layouts LBNHC and BLNHC; after work that is still queued on the engine's stream; with pages left out. And
// how fast, beside copies of pinned memory.
// Usage: device_pages OUT.json   Exit: 0 all is right, 1 not, 3 no GPU.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/page_mover.h"
#include "kernels/copy_queue.h"
#include "kernels/device.h"
#include "nlohmann/json.hpp"
#include "proto/status.h"
#include "tests/gpu/on_gpu.h"
#include "tests/support/in_process_cluster.h"

namespace stem {
namespace {

using gpu::Must;

constexpr int kGpu = 0;
constexpr uint32_t kLayers = 16;
constexpr uint32_t kPagesPerBlock = 2;
constexpr uint64_t kPageBytes = 64 << 10;
constexpr uint32_t kBlocks = 64;
constexpr uint32_t kPages = kBlocks * kPagesPerBlock;
constexpr uint64_t kBlockBytes = kLayers * kPagesPerBlock * kPageBytes;
constexpr uint64_t kBytes = kBlocks * kBlockBytes;
constexpr int kRounds = 5;
constexpr absl::Duration kPatience = absl::Seconds(30);

struct Layout {
  absl::string_view name;
  uint64_t layer_stride, page_stride;
};
constexpr Layout kLayouts[] = {{"LBNHC", kPages * kPageBytes, kPageBytes}, {"BLNHC", kPageBytes, kLayers * kPageBytes}};

struct Engine {
  const Layout& layout;
  DeviceBuffer memory;
  cudaStream_t stream;

  static absl::StatusOr<Engine> Make(const Layout& layout) {
    STEM_ASSIGN(DeviceBuffer memory, DeviceBuffer::Allocate(kBytes));
    cudaStream_t stream = nullptr;
    Must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return Engine{.layout = layout, .memory = std::move(memory), .stream = stream};
  }

  EnginePages pages() const {
    EnginePages pages{.parts = {{.id = 0, .planes = {}}}, .page_count = kPages, .pages_per_block = {kPagesPerBlock}};
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      pages.parts[0].planes.push_back({.base = memory.bytes().data() + layer * layout.layer_stride, .page_bytes = kPageBytes, .stride_bytes = layout.page_stride});
    }
    pages.make_queue = [](size_t pinned_bytes) { return MakeGpuQueue(kGpu, pinned_bytes); };
    return pages;
  }
  // Page `id` of each layer, out of a copy of the memory.
  std::vector<std::span<const std::byte>> Page(std::span<const std::byte> copy, uint32_t id) const {
    std::vector<std::span<const std::byte>> page;
    for (uint32_t layer = 0; layer < kLayers; ++layer) page.push_back(copy.subspan(layer * layout.layer_stride + id * layout.page_stride, kPageBytes));
    return page;
  }
  gpu::Bytes Back() const {
    gpu::Bytes bytes(kBytes);
    Must(cudaMemcpy(bytes.data(), memory.bytes().data(), kBytes, cudaMemcpyDeviceToHost), "copy from the GPU");
    return bytes;
  }
  // Queues, behind a stretch of other work, what the memory shall hold: `from`, on the GPU, or nothing but ones.
  absl::StatusOr<std::function<absl::StatusOr<bool>()>> Compute(const DeviceBuffer* from) const {
    Must(cudaLaunchHostFunc(stream, [](void*) { usleep(200'000); }, nullptr), "cudaLaunchHostFunc");
    if (from != nullptr) {
      Must(cudaMemcpyAsync(memory.bytes().data(), from->bytes().data(), kBytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
    } else {
      Must(cudaMemsetAsync(memory.bytes().data(), 0xFF, kBytes, stream), "cudaMemsetAsync");
    }
    STEM_ASSIGN(Event event, EventBehind(kGpu, stream));
    return [event = std::make_shared<const Event>(std::move(event))] { return event->Reached(); };
  }
};

NamespaceSpec Spec() {
  NamespaceSpec spec = TestSpec(kBlockBytes);
  spec.layout = "opaque";
  return spec;
}

std::vector<BlockKey> Chain(const CacheClient& client, uint32_t first_token) {
  std::vector<uint32_t> tokens(Spec().block_tokens * kBlocks);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = first_token + static_cast<uint32_t>(i);
  std::vector<BlockKey> keys;
  absl::StatusOr<ChainHasher> hasher = client.NewHasher();
  if (!hasher.ok() || !hasher->AppendTokens(tokens, keys).ok()) std::abort();
  return keys;
}

std::vector<int32_t> AllPages(bool turned) {
  std::vector<int32_t> pages(kPages);
  for (uint32_t i = 0; i < kPages; ++i) pages[i] = static_cast<int32_t>(turned ? kPages - 1 - i : i);
  return pages;
}

absl::Status Moved(const MoveResult& result, uint32_t blocks) {
  STEM_TRY(result.status);
  if (result.blocks_moved == blocks) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(result.blocks_moved, " of ", blocks, " blocks moved, ", result.blocks_held, " held, ", result.blocks_refused, " refused"));
}

double Speed(std::vector<absl::Duration> rounds) {
  std::nth_element(rounds.begin(), rounds.begin() + rounds.size() / 2, rounds.end());
  return static_cast<double>(kBytes) / absl::ToDoubleSeconds(rounds[rounds.size() / 2]) / 1e9;
}

bool SamePage(const Engine& a, std::span<const std::byte> a_bytes, uint32_t a_page, const Engine& b, std::span<const std::byte> b_bytes, uint32_t b_page) {
  const auto left = a.Page(a_bytes, a_page), right = b.Page(b_bytes, b_page);
  return std::equal(left.begin(), left.end(), right.begin(), [](auto x, auto y) { return std::equal(x.begin(), x.end(), y.begin()); });
}

// There and back between engines of one layout.
absl::Status Move(const Layout& layout, nlohmann::json& found) {
  InProcessCluster cluster({.nodes = 2, .dram_bytes = 8 * kBytes});
  STEM_ASSIGN(const Engine writer, Engine::Make(layout));
  STEM_ASSIGN(const Engine reader, Engine::Make(layout));
  STEM_ASSIGN(const DeviceBuffer truth, DeviceBuffer::Allocate(kBytes));
  const gpu::Bytes expected = gpu::RandomBytes(kBytes, 17);
  Must(cudaMemcpy(truth.bytes().data(), expected.data(), kBytes, cudaMemcpyHostToDevice), "copy to the GPU");
  const auto here = cluster.Connect(0, Spec(), kBytes), there = cluster.Connect(1, Spec(), 0);
  STEM_ASSIGN(const auto saver, PageMover::Create(*here, writer.pages()));
  STEM_ASSIGN(const auto loader, PageMover::Create(*there, reader.pages()));

  const std::vector<BlockKey> keys = Chain(*here, 1);
  MoveJob save{.save = true, .keys = keys, .pages = AllPages(false), .timeout = kPatience};
  STEM_ASSIGN(save.after, writer.Compute(&truth));
  STEM_TRY(Moved(saver->Run(save), kBlocks));
  cluster.Settle();
  MoveJob load{.save = false, .keys = keys, .pages = AllPages(true), .timeout = kPatience};
  STEM_ASSIGN(load.after, reader.Compute(nullptr));
  STEM_TRY(Moved(loader->Run(load), kBlocks));
  gpu::Bytes got = reader.Back();
  uint32_t wrong = 0;
  for (uint32_t page = 0; page < kPages; ++page) wrong += SamePage(writer, expected, page, reader, got, kPages - 1 - page) ? 0 : 1;

  // The first page of each block is left out, and stays as it is.
  STEM_ASSIGN(load.after, reader.Compute(nullptr));
  for (uint32_t page = 0; page < kPages; page += kPagesPerBlock) load.pages[page] = kNoPage;
  STEM_TRY(Moved(loader->Run(load), kBlocks));
  got = reader.Back();
  const gpu::Bytes ones(kBytes, std::byte{0xFF});
  for (uint32_t page = 0; page < kPages; ++page) {
    wrong += SamePage(writer, page % kPagesPerBlock == 0 ? ones : expected, page, reader, got, kPages - 1 - page) ? 0 : 1;
  }
  found["wrong_pages"] = wrong;

  std::vector<absl::Duration> saves, loads;
  load = {.save = false, .keys = keys, .pages = AllPages(true), .timeout = kPatience};
  save = {.save = true, .keys = keys, .pages = AllPages(false), .timeout = kPatience};
  for (int round = 0; round < kRounds; ++round) {
    const MoveResult loaded = loader->Run(load);
    STEM_TRY(Moved(loaded, kBlocks));
    loads.push_back(loaded.took);
    save.keys = Chain(*here, 1'000'000u * static_cast<uint32_t>(round + 1));
    const MoveResult saved = saver->Run(save);
    STEM_TRY(Moved(saved, kBlocks));
    saves.push_back(saved.took);
  }
  found["load_GB_per_s"] = Speed(loads);
  found["save_GB_per_s"] = Speed(saves);
  return wrong == 0 ? absl::OkStatus() : absl::DataLossError(absl::StrCat(wrong, " wrong pages"));
}

// One copy of everything at once: what the bus does.
absl::Status CopySpeeds(nlohmann::json& report) {
  STEM_ASSIGN(const Stream stream, Stream::Create());
  STEM_ASSIGN(const PinnedBuffer host, PinnedBuffer::Allocate(kBytes));
  STEM_ASSIGN(const DeviceBuffer device, DeviceBuffer::Allocate(kBytes));
  for (const bool to_gpu : {true, false}) {
    std::vector<absl::Duration> rounds;
    for (int round = 0; round <= kRounds; ++round) {
      const absl::Time begin = absl::Now();
      STEM_TRY(to_gpu ? stream.Copy(device.bytes(), host.bytes()) : stream.Copy(host.bytes(), device.bytes()));
      STEM_TRY(stream.Synchronize());
      if (round > 0) rounds.push_back(absl::Now() - begin);
    }
    report[to_gpu ? "pinned_to_gpu_GB_per_s" : "gpu_to_pinned_GB_per_s"] = Speed(rounds);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  using namespace stem;
  if (argc != 2) {
    std::fprintf(stderr, "usage: device_pages OUT.json\n");
    return 2;
  }
  if (!cuda_available()) {
    std::printf("no CUDA device\n");
    return 3;
  }
  nlohmann::json report;
  report["block_bytes"] = kBlockBytes;
  report["blocks"] = kBlocks;
  absl::Status status = CopySpeeds(report);
  for (const Layout& layout : kLayouts) {
    nlohmann::json& found = report["moves"][std::string(layout.name)];
    const absl::Status moved = Move(layout, found);
    found["status"] = moved.ToString();
    status.Update(moved);
  }
  std::printf("%s\n", report.dump(2).c_str());
  std::ofstream(argv[1]) << report.dump(2) << "\n";
  return status.ok() ? 0 : 1;
}
