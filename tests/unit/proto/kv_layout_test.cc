#include "proto/kv_layout.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

constexpr KvLayout Heads(uint32_t layers, uint32_t kv_heads, uint32_t head_dim, KvDtype dtype,
                         ScaleScheme scales = ScaleScheme::kNone) {
  return {.layers = layers,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .value_dim = head_dim,
          .dtype = dtype,
          .scales = scales};
}

constexpr KvLayout kMha7B = Heads(32, 32, 128, KvDtype::kFp16);
constexpr KvLayout kLlama70B = Heads(80, 8, 128, KvDtype::kBf16);
constexpr KvLayout kDeepSeekV3 = {.layers = 61, .latent_dim = 512, .rope_dim = 64, .dtype = KvDtype::kBf16};

// Worked by hand; constexpr, so that a wrong one does not compile.
static_assert(kMha7B.token_bytes() == 524'288);      // 32 layers * 2 * 32 heads * 128 * 2 B
static_assert(kLlama70B.token_bytes() == 327'680);   // 80 * 2 * 8 * 128 * 2
static_assert(kDeepSeekV3.token_bytes() == 70'272);  // 61 * (512 + 64) * 2

TEST(KvLayoutTest, TokenBytesOfKnownModels) {
  EXPECT_EQ(Heads(32, 8, 128, KvDtype::kBf16).token_bytes(), 131'072u);  // Llama 3 8B, GQA
  EXPECT_EQ(Heads(32, 1, 64, KvDtype::kBf16).token_bytes(), 8'192u);     // Falcon 7B, MQA
  EXPECT_EQ(Heads(2, 4, 16, KvDtype::kFp32).token_bytes(), 1'024u);
  // Keys and values of different sizes: 128 heads of 192 + 128.
  EXPECT_EQ((KvLayout{.layers = 1, .kv_heads = 128, .head_dim = 192, .value_dim = 128, .dtype = KvDtype::kBf16}
                 .token_bytes()),
            81'920u);
}

TEST(KvLayoutTest, QuantizedValuesCarryTheirScales) {
  EXPECT_EQ(Heads(32, 8, 128, KvDtype::kFp8).token_bytes(), 65'536u);  // scale per tensor: kept with the weights
  EXPECT_EQ(Heads(32, 8, 128, KvDtype::kInt8).token_bytes(), 65'536u);
  EXPECT_EQ(Heads(32, 8, 128, KvDtype::kFp8, ScaleScheme::kPerTokenHead).token_bytes(),
            67'584u);  // 32 * (2048 + 8*2*4)
  EXPECT_EQ(Heads(32, 8, 128, KvDtype::kInt4, ScaleScheme::kPerTokenHead).token_bytes(), 34'816u);  // 32 * (1024 + 64)
  EXPECT_EQ(
      (KvLayout{
          .layers = 61, .latent_dim = 512, .rope_dim = 64, .dtype = KvDtype::kFp8, .scales = ScaleScheme::kPerTokenHead}
           .token_bytes()),
      35'380u);  // 61 * (576 + one scale of 4)
}

TEST(KvLayoutTest, OddInt4ElementsRoundUpToABytePerLayer) {
  EXPECT_EQ((KvLayout{.layers = 3, .latent_dim = 5, .rope_dim = 2, .dtype = KvDtype::kInt4}.token_bytes()), 12u);
}

TEST(KvLayoutTest, BlocksAreTokensTimesTokenBytes) {
  EXPECT_EQ(kMha7B.block_bytes(16), 8'388'608u);
  EXPECT_EQ(kLlama70B.block_bytes(16), 5'242'880u);
  EXPECT_EQ(kDeepSeekV3.block_bytes(64), 4'497'408u);
}

TEST(KvLayoutTest, PartsOfABlockAddUpToIt) {
  EXPECT_EQ(kLlama70B.part_bytes(16, 40, 4), 1'310'720u);
  EXPECT_EQ(4 * kLlama70B.part_bytes(16, 40, 4), kLlama70B.block_bytes(16));
  EXPECT_EQ(kDeepSeekV3.part_bytes(64, 30, 0) + kDeepSeekV3.part_bytes(64, 31, 0), kDeepSeekV3.block_bytes(64));
}

TEST(KvLayoutTest, HeadsAreReplicatedWhenThereAreMoreRanks) {
  EXPECT_EQ(kLlama70B.heads_per_rank(1), 8u);
  EXPECT_EQ(kLlama70B.heads_per_rank(4), 2u);
  EXPECT_EQ(kLlama70B.heads_per_rank(16), 1u);
  EXPECT_EQ(kDeepSeekV3.heads_per_rank(8), 0u);  // latent: the same on every rank
}

TEST(KvLayoutTest, LargeModelsDoNotOverflow) {
  EXPECT_EQ(Heads(1000, 1024, 1024, KvDtype::kFp32).block_bytes(65536), 549'755'813'888'000u);
}

}  // namespace
}  // namespace stem
