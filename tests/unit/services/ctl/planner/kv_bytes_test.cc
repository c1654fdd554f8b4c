#include "services/ctl/planner/kv_bytes.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/model_table.h"

namespace stem::planner {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kKiB = 1024, kGiB = 1 << 30;

ModelShape Model(const std::string& name) {
  absl::StatusOr<ModelShape> shape = FindModel(name);
  EXPECT_TRUE(shape.ok()) << shape.status();
  return shape.ok() ? *std::move(shape) : ModelShape{};
}

absl::StatusOr<KvBytes> TryBytes(const ModelShape& shape, const std::string& dtype, Parallel parallel = {},
                                 Holding holding = {}) {
  const absl::StatusOr<KvDtype> parsed = ParseKvDtype(dtype);
  return parsed.ok() ? KvBytes::Of(shape, *parsed, parallel, holding) : parsed.status();
}

KvBytes Bytes(const ModelShape& shape, const std::string& dtype, Parallel parallel = {}, Holding holding = {}) {
  absl::StatusOr<KvBytes> bytes = TryBytes(shape, dtype, parallel, holding);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return *std::move(bytes);
}

KvBytes Bytes(const std::string& model, const std::string& dtype, Parallel parallel = {}, Holding holding = {}) {
  return Bytes(Model(model), dtype, parallel, holding);
}

// 32 layers x (32 + 32) heads x 128 x 2 bytes = 524,288.
TEST(KvBytesTest, SevenBillionWithoutSharingTakes512KiBAToken) {
  const KvBytes bytes = Bytes("llama-2-7b", "fp16");
  EXPECT_EQ(bytes.per_token(), 512 * kKiB);
  EXPECT_EQ(bytes.RequestBytes(2048), 1 * kGiB);
  EXPECT_EQ(MhaTokenBytes(Model("llama-2-7b")), 512 * kKiB);
}

// 80 x 2 x 8 x 128 x 2 = 327,680: an eighth of the 2,621,440 of 64 heads.
TEST(KvBytesTest, SeventyBillionInEightGroups) {
  EXPECT_EQ(Bytes("llama-2-70b", "fp16").per_token(), 320 * kKiB);
  EXPECT_EQ(Bytes("llama-3.1-70b", "bf16").RequestBytes(131072), 40 * kGiB);
  EXPECT_EQ(MhaTokenBytes(Model("llama-2-70b")), 8 * 320 * kKiB);
  EXPECT_EQ(Bytes("llama-3.1-405b", "bf16").per_token(), 126u * 2 * 8 * 128 * 2);  // 516,096
}

TEST(KvBytesTest, OneHeadForAllInFalcon) { EXPECT_EQ(Bytes("falcon-7b", "bf16").per_token(), 32u * 2 * 64 * 2); }

// 61 x (512 + 64) x 2 = 70,272; each tensor-parallel rank has all of it.
TEST(KvBytesTest, LatentVectorIsCopiedToEveryRank) {
  EXPECT_EQ(Bytes("deepseek-v3", "bf16").per_token(), 70272u);
  const KvBytes eight = Bytes("deepseek-v3", "bf16", {8, 1});
  EXPECT_EQ(eight.per_token(), 8 * 70272u);
  EXPECT_EQ(eight.per_token_distinct(), 70272u);
  EXPECT_EQ(eight.copies(), 8u);
  EXPECT_EQ(eight.RankRequestBytes(16), 16 * 70272u);
  EXPECT_EQ(Bytes("deepseek-v3", "fp8").per_token(), 35136u);
  EXPECT_EQ(Bytes("deepseek-v3", "fp8_ds_mla").per_token(), 61u * 656);
  EXPECT_EQ(Bytes("deepseek-v3.2", "bf16").per_token(), 61u * (1152 + 132));
}

// 27B: 62 layers, every sixth is full: 10 full, 52 with a window of 1024; 2 x 16 x 128 x 2 = 8,192 bytes a layer and
// token.
TEST(KvBytesTest, GemmaWindowsStopGrowing) {
  const KvBytes bytes = Bytes("gemma-3-27b", "bf16");
  EXPECT_EQ(bytes.per_token(), 10 * 8192u);
  EXPECT_EQ(bytes.stored_token(), 62 * 8192u);
  EXPECT_EQ(bytes.window_tokens(), 1024u);
  EXPECT_EQ(bytes.window(), 52u * 65 * 16 * 8192);  // ceil(1024 / 16) + 1 blocks
  EXPECT_EQ(bytes.RequestBytes(512), 62u * 512 * 8192);
  EXPECT_EQ(bytes.RequestBytes(131072), uint64_t{10} * 131072 * 8192 + bytes.window());
  EXPECT_EQ(Bytes("gemma-3-1b", "bf16").per_token(), 4u * 2 * 256 * 2);  // 26 / 6
}

TEST(KvBytesTest, LlamaFourKeepsAChunkInThreeOfFourLayers) {
  const KvBytes bytes = Bytes("llama-4-scout", "bf16");
  EXPECT_EQ(bytes.per_token(), 12u * 2 * 8 * 128 * 2);
  EXPECT_EQ(bytes.window_tokens(), 8192u);
}

TEST(KvBytesTest, HeadsAreCopiedWhenRanksOutnumberThem) {
  const KvBytes sixteen = Bytes("llama-3-70b", "bf16", {16, 1});
  EXPECT_EQ(sixteen.copies(), 2u);
  EXPECT_EQ(sixteen.per_token(), 2 * 320 * kKiB);
  EXPECT_EQ(sixteen.per_token_distinct(), 320 * kKiB);
  EXPECT_EQ(sixteen.RankRequestBytes(16), 16u * 80 * 2 * 128 * 2);
  EXPECT_EQ(Bytes("llama-3-70b", "bf16", {8, 1}).copies(), 1u);
}

TEST(KvBytesTest, FullestStageHasTheLayerLeftOver) {
  // 126 layers over 4 stages: 32 on the fullest; 8 heads over 8 ranks: one each.
  EXPECT_EQ(Bytes("llama-3.1-405b", "bf16", {8, 4}).RankRequestBytes(16), 16u * 32 * 2 * 128 * 2);
}

TEST(KvBytesTest, ScalesAreCounted) {
  const uint64_t heads = 32 * 8;  // llama-3-8b: layers x key-value heads, 128 + 128 values each
  EXPECT_EQ(Bytes("llama-3-8b", "fp8").per_token(), heads * 256);
  EXPECT_EQ(Bytes("llama-3-8b", "int8").per_token(), heads * (256 + 8));
  EXPECT_EQ(Bytes("llama-3-8b", "int4").per_token(), heads * (128 + 8));
  EXPECT_EQ(Bytes("llama-3-8b", "nvfp4").per_token(), heads * 144);  // 0.5625 bytes a value
}

TEST(KvBytesTest, RequestsAreRoundedUpToBlocks) {
  const KvBytes bytes = Bytes("llama-3-8b", "bf16");
  EXPECT_EQ(bytes.RequestBytes(1), 16 * 128 * kKiB);
  EXPECT_EQ(bytes.RequestBytes(16), bytes.RequestBytes(1));
  EXPECT_EQ(bytes.RequestBytes(17), 2 * bytes.RequestBytes(1));
}

TEST(KvBytesTest, DraftTokensTakeBlocksToo) {
  const Holding holding{16, 5};
  EXPECT_EQ(Bytes("llama-3-8b", "bf16", {}, holding).RequestBytes(16), 32 * 128 * kKiB);
}

// Qwen3.5 27B: state 48 x 128 x 128 x 4 + conv 3 x (2 x 2048 + 6144) x 2 = 3,207,168 bytes a layer; a token takes
// 2 x 4 x 256 x 2 = 4,096 in a full layer: 783.0 tokens, so blocks of 784, as vllm#54607 reports.
TEST(KvBytesTest, StateSetsTheFloorOfHybrids) {
  const KvBytes bytes = Bytes("qwen3.5-27b", "bf16");
  EXPECT_EQ(bytes.engine_block_tokens(), 784u);
  EXPECT_EQ(bytes.state(), 48u * 3207168);
  EXPECT_EQ(bytes.per_token(), 16u * 4096);
  EXPECT_EQ(bytes.RequestBytes(1), 784u * bytes.per_token() + bytes.state());
  EXPECT_EQ(Bytes("llama-3-8b", "bf16").engine_block_tokens(), 16u);
}

TEST(KvBytesTest, ImpossibleSplitsAreRefused) {
  EXPECT_THAT(TryBytes(Model("llama-3-8b"), "bf16", {3, 1}).status().message(), HasSubstr("tensor parallel 3"));
  EXPECT_THAT(TryBytes(Model("llama-3-8b"), "bf16", {1, 33}).status().message(), HasSubstr("32 layers"));
  EXPECT_THAT(TryBytes(Model("phi-4"), "bf16", {4, 1}).status().message(), HasSubstr("10 key-value heads"));
  EXPECT_THAT(TryBytes(Model("deepseek-v3"), "int4").status().message(), HasSubstr("MLA"));
  EXPECT_THAT(TryBytes(Model("llama-3-8b"), "fp8_ds_mla").status().message(), HasSubstr("MLA only"));
  EXPECT_THAT(TryBytes(Model("llama-3-8b"), "q8_0").status().message(), HasSubstr("fp8_ds_mla"));
}

}  // namespace
}  // namespace stem::planner
