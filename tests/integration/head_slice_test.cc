// Engines of different tensor-parallel degrees share blocks through real nodes: the ranks of one publish on node 0, the
// ranks of the other read on node 1, and each finds exactly its heads in its pages.
#include "kernels/head_slice.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::Soon;

constexpr uint32_t kBlocks = 5;
constexpr uint32_t kBlockTokens = 16;
constexpr KvLayout kLayout = {.layers = 3, .kv_heads = 4, .head_dim = 16, .value_dim = 8, .dtype = KvDtype::kBf16};

std::byte Mark(uint64_t block, uint64_t layer, uint64_t plane, uint64_t token, uint64_t head, uint64_t at) {
  return static_cast<std::byte>(((((block * 3 + layer) * 2 + plane) * 16 + token) * 4 + head) * 37 + at * 5 + (token << 4));
}

// One rank of an engine: its heads and its paged cache, a page table of two pages for each block.
class Rank {
 public:
  Rank(PageOrder order, uint32_t degree, uint32_t rank)
      : heads(*HeadsOfRank(kLayout.kv_heads, degree, rank)),
        shape(*ShapeOf(kLayout, heads.count, order, kBlockTokens, kBlockTokens / 2)) {
    const uint64_t page_bytes = kBlockTokens / 2 * heads.count * shape.key_bytes;
    for (uint32_t i = 0; i < 2 * kLayout.layers; ++i) planes_.emplace_back(page_bytes * kPages);
    for (uint32_t i = 0; i < kLayout.layers; ++i) layers_.push_back({planes_[2 * i].data(), planes_[2 * i + 1].data()});
    cache = {layers_, page_bytes, kPages, heads.count};
  }
  Rank(const Rank&) = delete;

  std::vector<uint32_t> PagesOf(uint32_t block) const { return {(3 * block + 1) % kPages, (3 * block + 2) % kPages}; }

  // Calls visit(byte, what it must be) for all bytes of the rank's heads of `blocks` blocks.
  template <typename Visit>
  void ForEachByte(Visit visit) {
    for (uint32_t block = 0; block < kBlocks; ++block) {
      for (uint32_t layer = 0; layer < kLayout.layers; ++layer) {
        for (uint32_t plane = 0; plane < 2; ++plane) {
          const uint64_t row = plane == 0 ? shape.key_bytes : shape.value_bytes;
          for (uint64_t n = 0; n < kBlockTokens * heads.count * row; ++n) {
            const uint64_t token = n / row / heads.count, head = n / row % heads.count;
            const uint64_t half = kBlockTokens / 2, t = token % half;
            const uint64_t place = shape.order == PageOrder::kHnd ? head * half + t : t * heads.count + head;
            visit(planes_[2 * layer + plane][PagesOf(block)[token / half] * cache.page_stride_bytes + place * row + n % row],
                  Mark(block, layer, plane, token, heads.first + head, n % row));
          }
        }
      }
    }
  }

  HeadRange heads;
  BlockShape shape;
  PagedCache cache;

 private:
  static constexpr uint32_t kPages = 16;
  std::vector<std::vector<std::byte>> planes_;
  std::vector<LayerPages> layers_;
};

NamespaceSpec SpecOf(const std::string& model, uint32_t publishers) {
  NamespaceSpec spec = TestSpec(1024, model);
  spec.block_tokens = kBlockTokens;
  spec.parts = *HeadParts(kLayout, publishers, kBlockTokens);
  return spec;
}

std::vector<uint32_t> IdsOf(const std::vector<PartCopy>& copies) {
  std::vector<uint32_t> ids;
  for (const PartCopy& copy : copies) ids.push_back(copy.part);
  return ids;
}

void Publish(InProcessCluster& cluster, const NamespaceSpec& spec, uint32_t degree) {
  for (uint32_t i = 0; i < degree; ++i) {
    if (!*PublishesHeads(kLayout.kv_heads, degree, i)) continue;
    Rank rank(PageOrder::kNhd, degree, i);
    rank.ForEachByte([](std::byte& byte, std::byte mark) { byte = mark; });
    const auto copies = *PlanParts(rank.shape, rank.heads, spec.parts);
    const auto client = cluster.Connect(0, spec);
    absl::StatusOr<Reservation> reserved =
        client->Reserve(ChainOf(*client, kBlocks), {.parts = IdsOf(copies)}, Soon());
    ASSERT_TRUE(reserved.ok()) << reserved.status();
    ASSERT_EQ(reserved->wanted().size(), kBlocks);
    for (const WantedPayload& wanted : reserved->wanted()) {
      const absl::Status status =
          Gather(copies.front().shape, rank.cache, rank.PagesOf(wanted.block), wanted.staging);
      ASSERT_TRUE(status.ok()) << status;
    }
    const absl::StatusOr<CommitResult> committed = client->Commit(*std::move(reserved), Soon());
    ASSERT_TRUE(committed.ok()) << committed.status();
    EXPECT_EQ(committed->committed, kBlocks);
  }
}

void ReadAndExpect(InProcessCluster& cluster, const NamespaceSpec& spec, uint32_t degree, uint32_t i) {
  Rank rank(PageOrder::kHnd, degree, i);
  const auto copies = *PlanParts(rank.shape, rank.heads, spec.parts);
  const auto client = cluster.Connect(1, spec, 0);
  absl::StatusOr<Stem> stem = client->Acquire(ChainOf(*client, kBlocks), {.parts = IdsOf(copies)}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  ASSERT_EQ(stem->matched_blocks(), kBlocks);
  ASSERT_EQ(stem->parts_asked(), copies.size());
  std::vector<std::vector<std::byte>> memory;
  for (uint32_t at = 0; at < kBlocks * copies.size(); ++at) {
    memory.emplace_back(copies[at % copies.size()].shape.block_bytes());
  }
  const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
  const LoadResult loaded = client->Load(*stem, 0, destinations, Soon());
  ASSERT_EQ(loaded.blocks_loaded, kBlocks) << loaded.status;
  for (uint32_t at = 0; at < memory.size(); ++at) {
    const uint32_t block = at / static_cast<uint32_t>(copies.size());
    const absl::Status status = Scatter(copies[at % copies.size()].shape, rank.cache, rank.PagesOf(block), memory[at]);
    ASSERT_TRUE(status.ok()) << status;
  }
  size_t wrong = 0;
  rank.ForEachByte([&](std::byte& byte, std::byte mark) { wrong += byte != mark; });
  EXPECT_EQ(wrong, 0u);
}

TEST(HeadSliceTest, RanksOfAnyDegreeReadTheirHeadsFromBlocksOfAnyOther) {
  InProcessCluster cluster({.nodes = 2, .dram_bytes = 32 << 20});
  for (const uint32_t publishers : {1u, 2u, 4u, 8u}) {  // 8: every head on two ranks
    const NamespaceSpec spec = SpecOf(absl::StrCat("published-by-", publishers), publishers);
    Publish(cluster, spec, publishers);
    cluster.Settle();
    for (const uint32_t readers : {1u, 2u, 4u, 8u}) {
      for (uint32_t rank = 0; rank < readers; ++rank) {
        SCOPED_TRACE(absl::StrCat("published by ", publishers, ", read by rank ", rank, " of ", readers));
        ReadAndExpect(cluster, spec, readers, rank);
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace stem
