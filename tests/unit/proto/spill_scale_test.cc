// Which namespaces may have their spilled blocks kept as codes, and which elements share a scale there.
#include "proto/spill_scale.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/match.h"

namespace stem {
namespace {

NamespaceSpec Llama(uint64_t head_dim = 128) {
  NamespaceSpec spec;
  spec.model = std::string("m");
  spec.kv_dtype = std::string("bf16");
  spec.layout = std::string("nhd");
  spec.block_tokens = 16;
  spec.spill_encoding = SpillEncoding::kInt8;
  spec.parts = {{.id = 0, .layer_count = 32, .head_count = 8, .block_bytes = 32 * 16 * 8 * 2 * head_dim * 2}};
  return spec;
}

TEST(SpillScaleTest, RowOfAHeadSharesAScaleUpTo128Elements) {
  EXPECT_EQ(*SpillScaleElements(Llama(128)), 128u);
  EXPECT_EQ(*SpillScaleElements(Llama(64)), 64u);
  EXPECT_EQ(*SpillScaleElements(Llama(80)), 80u);
  EXPECT_EQ(*SpillScaleElements(Llama(256)), 128u) << "two to a row";
  EXPECT_EQ(*SpillScaleElements(Llama(288)), 96u) << "MLA's 576, halved";
}

TEST(SpillScaleTest, PartsOfSeveralRowsShareWhatDividesThemAll) {
  NamespaceSpec spec = Llama(256);
  spec.parts.push_back({.id = 1, .group = GroupKind::kWindow, .window_tokens = 64, .layer_count = 2, .head_count = 4, .block_bytes = 2 * 16 * 4 * 2 * 96 * 2});
  EXPECT_EQ(*SpillScaleElements(spec), 32u);
}

TEST(SpillScaleTest, PartThatTellsNeitherLayersNorHeadsIsCutIntoWholeShares) {
  NamespaceSpec spec = Llama();
  spec.parts[0].layer_count = spec.parts[0].head_count = 1;
  EXPECT_EQ(*SpillScaleElements(spec), 128u);
}

TEST(SpillScaleTest, EveryPlainTypeHasItsSize) {
  NamespaceSpec spec = Llama(64);
  EXPECT_EQ(*SpillScaleElements(spec), 64u);
  spec.kv_dtype = std::string("fp16");
  EXPECT_EQ(*SpillScaleElements(spec), 64u);
  spec.kv_dtype = std::string("fp32");
  EXPECT_EQ(*SpillScaleElements(spec), 32u) << "the same bytes";
}

TEST(SpillScaleTest, RefusalsNameThePartTheValueAndWhatIsRight) {
  struct Case {
    std::function<void(NamespaceSpec&)> spoil;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {[](auto& s) { s.kv_dtype = std::string("fp8_e4m3"); }, {"spill_encoding is int8", "part 0", "kv_dtype fp8_e4m3", "fp16, bf16 or fp32"}},
      {[](auto& s) { s.kv_dtype = std::string("opaque"); }, {"kv_dtype opaque"}},
      {[](auto& s) { s.layout = std::string("opaque"); }, {"part 0 has layout opaque"}},
      {[](auto& s) { s.scale_scheme = std::string("per_token_head"); }, {"scale_scheme is per_token_head", "empty"}},
      {[](auto& s) { s.parts.push_back({.id = 7, .group = GroupKind::kState, .block_bytes = 4096}); }, {"part 7", "recurrent state"}},
      {[](auto& s) { s.parts[0].block_bytes += 2; }, {"part 0 has 2097154 bytes", "32 layers of 16 tokens of 8 heads"}},
      {[](auto& s) { s.parts[0].layer_count = s.parts[0].head_count = UINT32_MAX; }, {"part 0 has 2097152 bytes", "4294967295 layers"}},
      {[](auto& s) { s = Llama(8); }, {"part 0", "rows of 8 elements", "multiple of 16"}},
      {[](auto& s) { s = Llama(131); }, {"rows of 131 elements"}},
  };
  for (const Case& each : cases) {
    NamespaceSpec spec = Llama();
    each.spoil(spec);
    const absl::Status refused = SpillScaleElements(spec).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
    for (const std::string& word : each.words) EXPECT_TRUE(absl::StrContains(refused.message(), word)) << refused << "\nlacks " << word;
  }
}

}  // namespace
}  // namespace stem
