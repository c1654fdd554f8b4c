#include "services/ctl/planner/engine_pool.h"

#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/model_table.h"

namespace stem::planner {
namespace {

EnginePool PoolOf(const ModelShape& shape, uint32_t draft_tokens = 0) {
  const absl::StatusOr<KvBytes> kv = KvBytes::Of(shape, *ParseKvDtype("bf16"), {}, {16, draft_tokens});
  EXPECT_TRUE(kv.ok()) << kv.status();
  return EnginePool(*kv);
}

EnginePool PoolOf(const std::string& model, uint32_t draft_tokens = 0) {
  return PoolOf(*FindModel(model), draft_tokens);
}

// 32 layers x 16 tokens x 4,096 bytes = 2 MiB.
TEST(EnginePoolTest, OneKindIsOneGroup) {
  const EnginePool pool = PoolOf("llama-3-8b");
  EXPECT_EQ(pool.groups().size(), 1u);
  EXPECT_EQ(pool.block_bytes(), 2u << 20);
  EXPECT_EQ(pool.HeldBlocks(17), 2u);
  EXPECT_EQ(pool.ReservedBlocks(8192, 8192), 512u);
  EXPECT_EQ(pool.Blocks((5u << 20) - 1), 2u);
  EXPECT_EQ(PoolOf("llama-3-8b", 5).HeldBlocks(16), 2u);  // 21 tokens
}

// 10 full and 52 window layers: groups of 10, so 1 + 6 groups, the last with 8 layers of padding. A block is 10 pages of 16 x 8,192 bytes.
TEST(EnginePoolTest, GemmasWindowLayersTakeSixGroups) {
  const EnginePool pool = PoolOf("gemma-3-27b");
  EXPECT_EQ(pool.block_bytes(), 10u * 16 * 8192);
  EXPECT_EQ(pool.padding_layers(), 8u);
  EXPECT_EQ(pool.HeldBlocks(6000), 375u + 6 * (1024 / 16 + 1));
  EXPECT_EQ(pool.HeldBlocks(100), 7u * 7);  // not yet a window
  // 1,023 + 16,384 in flight = 17,407 tokens: 1,088 blocks and one more.
  EXPECT_EQ(pool.ReservedBlocks(24000, 16384), 1500u + 6 * 1089);
}

// 13 of one kind are less than 1.5 times 12: both are groups of 13.
TEST(EnginePoolTest, NearlyAsManyLayersArePadded) {
  nlohmann::json config = {{"model_type", "llama"},     {"num_hidden_layers", 25},   {"hidden_size", 64},
                           {"num_attention_heads", 4},  {"num_key_value_heads", 2},  {"intermediate_size", 96},
                           {"vocab_size", 1000},        {"sliding_window", 32},      {"torch_dtype", "bfloat16"},
                           {"max_position_embeddings", 4096}, {"tie_word_embeddings", false}};
  for (int layer = 0; layer < 25; ++layer) {
    config["layer_types"].push_back(layer % 2 == 0 ? "full_attention" : "sliding_attention");
  }
  const EnginePool pool = PoolOf(*ParseModel(config, "m"));
  EXPECT_EQ(pool.padding_layers(), 1u);
  EXPECT_EQ(pool.block_bytes(), 13u * 16 * 2 * 2 * 16 * 2);  // tokens x (keys + values) x heads x dims x bytes
  EXPECT_EQ(pool.HeldBlocks(4096), 256u + 3);
}

// 16 full and 48 linear layers: 1 + 3 groups; a state takes a block where the prompt may resume and one where it is computed.
TEST(EnginePoolTest, StatesTakeTwoBlocks) {
  const EnginePool pool = PoolOf("qwen3.5-27b");
  EXPECT_EQ(pool.block_bytes(), 16u * 784 * 4096);
  EXPECT_EQ(pool.HeldBlocks(784), 1u + 3 * 2);
  EXPECT_EQ(pool.HeldBlocks(785), 2u + 3 * 2);
}

// 12 full, 36 with chunks of 8,192.
TEST(EnginePoolTest, ChunksHaveNoBlockMore) {
  const EnginePool pool = PoolOf("llama-4-scout");
  EXPECT_EQ(pool.ReservedBlocks(131072, 8192), 8192u + 3 * 1024);
  EXPECT_EQ(pool.HeldBlocks(131072), 8192u + 3 * 513);  // with the token being computed
}

}  // namespace
}  // namespace stem::planner
