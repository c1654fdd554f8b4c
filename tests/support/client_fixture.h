// A client beside a fake node, with a chain of keys and a payload for each.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "tests/support/fake_node.h"
#include "tests/support/pages.h"
#include "tests/support/temp_directory.h"

namespace stem::testing {

inline constexpr uint64_t kTestBlockBytes = 5000;  // not a multiple of a chunk
inline constexpr size_t kTestBlocks = 6;

class ClientFixture : public ::testing::Test {
 protected:
  static absl::Time Soon() { return absl::Now() + absl::Seconds(20); }
  static absl::Time Within(int64_t ms) { return absl::Now() + absl::Milliseconds(ms); }

  void StartNode(FakeNode::Options options) {
    node_ = std::make_unique<FakeNode>(directory_.path(), std::move(options));
  }

  void Start(uint32_t parts = 1, uint64_t staging_bytes = 64 << 10, LocalProof proof = LocalProof::kFull, bool show_slots = false) {
    spec_ = SmallSpec(kTestBlockBytes, parts);
    FakeNode::Options node;
    node.spec = spec_;
    node.show_slots = show_slots;
    StartNode(std::move(node));
    options_ = {.node = node_->target(),
                .space = spec_,
                .staging_bytes = staging_bytes,
                .client_name = "test",
                .shared_group = {},
                .local_proof = proof};
    auto client = CacheClient::Connect(options_, Soon());
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    std::vector<uint32_t> tokens(kTestBlocks * spec_.block_tokens);
    std::iota(tokens.begin(), tokens.end(), 1000);
    keys_ = *client_->NewHasher()->HashPrompt("", tokens, {});
  }

  std::vector<std::byte> Payload(size_t block, uint32_t part = 0) const {
    std::vector<std::byte> payload(spec_.part(part)->block_bytes);
    for (size_t i = 0; i < payload.size(); ++i)
      payload[i] = static_cast<std::byte>(i * 7 + block * 31 + part + (i >> 8));
    return payload;
  }

  // The node holds blocks 0..count-1, all parts, in consecutive slots.
  void HoldBlocks(size_t count) {
    for (size_t block = 0; block < count; ++block) {
      for (const Part& part : spec_.parts) node_->Hold(PartKey(keys_[block], part.id), Payload(block, part.id));
    }
  }

  // Memory for `blocks` blocks of part 0.
  struct Pages : testing::Pages {
    explicit Pages(size_t blocks, uint64_t block_bytes = kTestBlockBytes) : testing::Pages(blocks, block_bytes) {}
  };

  static std::vector<std::byte> Bytes(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

  TempDirectory directory_;
  NamespaceSpec spec_;
  std::unique_ptr<FakeNode> node_;
  CacheClient::Options options_;
  std::unique_ptr<CacheClient> client_;
  std::vector<BlockKey> keys_;
};

}  // namespace stem::testing
