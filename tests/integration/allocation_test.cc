// The hot path allocates per stem, not per block: acquiring, loading and releasing sixteen times the blocks may cost some larger
// buffers, and nothing for each block. Counted over client, node and gRPC, all in this process.
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/pages.h"
#include "tests/support/publishing.h"

namespace {
std::atomic<uint64_t> allocations{0};

void* Allocate(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = alignment <= alignof(std::max_align_t) ? std::malloc(bytes)
                                                              : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}
}  // namespace

void* operator new(std::size_t bytes) { return Allocate(bytes, 1); }
void* operator new[](std::size_t bytes) { return Allocate(bytes, 1); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return Allocate(bytes, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t bytes, std::align_val_t alignment) { return Allocate(bytes, static_cast<std::size_t>(alignment)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace stem {
namespace {

using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 4096;
constexpr uint32_t kShort = 64;
constexpr uint32_t kLong = 1024;

TEST(AllocationTest, AStemsLengthAddsNoneForEachBlock) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 64 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes), 16 << 20);
  const std::vector<BlockKey> keys = testing::ChainOf(*client, kLong);
  ASSERT_EQ(testing::Publish(*client, keys, testing::FillWithPosition), kLong);
  const testing::Pages pages(kLong, kBlockBytes);

  // The fewest of many rounds: other threads of the cluster allocate now and then.
  const auto fewest = [&](uint32_t blocks) {
    uint64_t least = UINT64_MAX;
    for (int round = 0; round < 50; ++round) {
      const uint64_t before = allocations.load();
      {
        absl::StatusOr<Stem> stem = client->Acquire(std::span(keys).first(blocks), {}, Soon());
        EXPECT_EQ(stem->matched_blocks(), blocks);
        EXPECT_EQ(client->Load(*stem, 0, std::span(pages.spans).first(blocks), Soon()).blocks_loaded, blocks);
      }
      least = std::min(least, allocations.load() - before);
    }
    return least;
  };
  const uint64_t few = fewest(kShort);
  const uint64_t many = fewest(kLong);
  EXPECT_LT(static_cast<double>(many) - static_cast<double>(few), 0.05 * (kLong - kShort)) << few << " and " << many;
}

}  // namespace
}  // namespace stem
