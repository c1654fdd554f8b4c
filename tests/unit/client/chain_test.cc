#include "client/chain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/golden_vectors.h"

namespace stem {
namespace {

using testing::GoldenVectors;
using ::testing::HasSubstr;
using testing::NameFromHex;
using testing::Unhex;

constexpr Root kRoot = {1, 2, 3};

HashScheme SchemeFrom(const std::string& name) {
  return name == "xxh3" ? HashScheme::kXxh3 : name == "sha256" ? HashScheme::kSha256 : HashScheme::kExternal;
}

std::vector<std::string> Hex(const BlockKey& origin, const std::vector<BlockKey>& keys) {
  std::vector<std::string> hex = {origin.ToHex()};
  for (const BlockKey& key : keys) hex.push_back(key.ToHex());
  return hex;
}

std::vector<uint32_t> Tokens(size_t count) {
  std::vector<uint32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 7u);
  return tokens;
}

TEST(ChainTest, GoldenChainsOfAllSchemes) {
  for (const auto& vector : GoldenVectors("chains")) {
    const std::string scheme = vector.at("scheme");
    SCOPED_TRACE(scheme + ", " + vector.at("name").get<std::string>());
    const std::string salt = Unhex(vector.at("salt"));
    auto hasher =
        ChainHasher::Create(SchemeFrom(scheme), NameFromHex<Root>(vector.at("root")), salt, vector.at("block_tokens"));
    ASSERT_TRUE(hasher.ok()) << hasher.status();
    std::vector<std::string> bytes;  // that the extras borrow
    std::vector<PlacedExtra> extras;
    bytes.reserve(vector.at("extras").size());
    for (const auto& extra : vector.at("extras")) {
      bytes.push_back(Unhex(extra.at("bytes")));
      extras.push_back({.block = extra.at("block"),
                        .extra = {.tag = static_cast<ExtraTag>(extra.at("tag").get<int>()),
                                  .bytes = bytes.back(),
                                  .offset_tokens = extra.at("offset_tokens")}});
    }
    std::vector<BlockKey> keys;
    if (scheme == "external") {
      for (const auto& hash : vector.at("hashes")) ASSERT_TRUE(hasher->AppendHash(Unhex(hash), keys).ok());
    } else {
      keys = *hasher->HashPrompt(salt, vector.at("tokens").get<std::vector<uint32_t>>(), extras);
    }
    EXPECT_EQ(Hex(hasher->origin(), keys), vector.at("keys").get<std::vector<std::string>>());
  }
}

class ChainSchemeTest : public ::testing::TestWithParam<HashScheme> {
 protected:
  ChainHasher Hasher(absl::string_view salt = "", const Root& root = kRoot) const {
    return *ChainHasher::Create(GetParam(), root, salt, 16);
  }
};

TEST_P(ChainSchemeTest, TokenByTokenEqualsWholePrompt) {
  const std::vector<uint32_t> tokens = Tokens(100);
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  ChainHasher whole = Hasher();
  const std::vector<BlockKey> expected = *whole.HashPrompt("s", tokens, {});
  EXPECT_EQ(expected.size(), 6u);
  EXPECT_EQ(whole.tail_tokens(), 4u);
  for (int round = 0; round < 50; ++round) {
    ChainHasher hasher = Hasher("s");
    std::vector<BlockKey> keys;
    for (size_t at = 0; at < tokens.size();) {
      const size_t count = std::min<size_t>(1 + random() % 40, tokens.size() - at);
      ASSERT_TRUE(hasher.AppendTokens(std::span(tokens).subspan(at, count), keys).ok());
      at += count;
    }
    ASSERT_EQ(keys, expected);
    EXPECT_EQ(hasher.last(), expected.back());
    EXPECT_EQ(hasher.blocks(), 6u);
  }
}

TEST_P(ChainSchemeTest, EqualPrefixGivesEqualKeysAndNothingElseDoes) {
  std::vector<uint32_t> tokens = Tokens(64);
  const std::vector<BlockKey> keys = *Hasher().HashPrompt("", tokens, {});
  tokens[40] ^= 1;
  const std::vector<BlockKey> other = *Hasher().HashPrompt("", tokens, {});
  EXPECT_EQ(keys[0], other[0]);
  EXPECT_EQ(keys[1], other[1]);
  EXPECT_NE(keys[2], other[2]);
  EXPECT_NE(keys[3], other[3]);  // the same tokens behind another prefix
}

TEST_P(ChainSchemeTest, RootSaltAndEveryExtraFieldChangeTheKey) {
  const std::vector<uint32_t> tokens = Tokens(16);
  Root another = kRoot;
  another[31] ^= 1;
  std::set<std::string> seen;
  const auto add = [&](std::vector<PlacedExtra> extras) {
    EXPECT_TRUE(seen.insert((*Hasher().HashPrompt("", tokens, extras))[0].ToHex()).second) << extras.size();
  };
  add({});
  seen.insert((*Hasher().HashPrompt("salt", tokens, {}))[0].ToHex());
  seen.insert((*Hasher("", another).HashPrompt("", tokens, {}))[0].ToHex());
  EXPECT_EQ(seen.size(), 3u);
  const ExtraKey lora{.tag = ExtraTag::kLora, .bytes = "a"};
  const ExtraKey image{.tag = ExtraTag::kMultimodal, .bytes = "a"};
  add({{0, lora}});
  add({{0, image}});
  add({{0, {.tag = ExtraTag::kMultimodal, .bytes = "a", .offset_tokens = 1}}});
  add({{0, {.tag = ExtraTag::kPromptEmbedding, .bytes = "a"}}});
  add({{0, {.tag = ExtraTag::kGeneric, .bytes = "a"}}});
  add({{0, {.tag = ExtraTag::kLora, .bytes = ""}}});
  add({{0, {.tag = ExtraTag::kLora, .bytes = "ab"}}});
  add({{0, lora}, {0, image}});
  add({{0, image}, {0, lora}});  // order counts
  add({{0, lora}, {0, lora}});
}

TEST_P(ChainSchemeTest, RestartForgetsTokensAndExtras) {
  const std::vector<uint32_t> tokens = Tokens(32);
  ChainHasher hasher = Hasher();
  std::vector<BlockKey> ignored;
  ASSERT_TRUE(hasher.AppendTokens(std::span(tokens).first(5), ignored).ok());
  ASSERT_TRUE(hasher.AddExtra({.tag = ExtraTag::kLora, .bytes = "x"}).ok());
  EXPECT_EQ(*hasher.HashPrompt("", tokens, {}), *Hasher().HashPrompt("", tokens, {}));
}

TEST_P(ChainSchemeTest, WrongUseIsRefusedWithTheValue) {
  ChainHasher hasher = Hasher();
  std::vector<BlockKey> keys;
  EXPECT_EQ(hasher.AppendHash("h", keys).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(hasher.AddExtra({.tag = static_cast<ExtraTag>(5), .bytes = "x"}).message(), HasSubstr("5"));
  EXPECT_THAT(hasher.AddExtra({.tag = ExtraTag::kLora, .bytes = std::string(4097, 'x')}).message(), HasSubstr("4097"));
  EXPECT_THAT(hasher.AddExtra({.tag = ExtraTag::kMultimodal, .bytes = "x", .offset_tokens = 16}).message(),
              HasSubstr("16"));
  EXPECT_THAT(hasher.AddExtra({.tag = ExtraTag::kLora, .bytes = "x", .offset_tokens = 1}).message(), HasSubstr("1"));
  EXPECT_THAT(hasher.Restart(std::string(1025, 's')).message(), HasSubstr("1025"));
  EXPECT_THAT(ChainHasher::Create(GetParam(), kRoot, "", 0).status().message(), HasSubstr("block_tokens is 0"));
  EXPECT_FALSE(hasher.HashPrompt("", Tokens(64), std::vector<PlacedExtra>{{.block = 2}, {.block = 1}}).ok());
  ASSERT_TRUE(hasher.Restart("").ok());
  for (size_t i = 0; i < kExtrasPerBlockMax; ++i) ASSERT_TRUE(hasher.AddExtra({.bytes = "x"}).ok());
  EXPECT_EQ(hasher.AddExtra({.bytes = "x"}).code(), absl::StatusCode::kResourceExhausted);
}

INSTANTIATE_TEST_SUITE_P(Schemes, ChainSchemeTest, ::testing::Values(HashScheme::kXxh3, HashScheme::kSha256),
                         [](const auto& scheme) { return scheme.param == HashScheme::kXxh3 ? "xxh3" : "sha256"; });

TEST_P(ChainSchemeTest, TheProbeIsOfTheFirstTokensAndTheSaltWhateverTheBlocks) {
  const ProbeKey key = {9};
  const std::vector<uint32_t> tokens = Tokens(40);
  const Probe expected = ProbeOf(key, std::span(tokens).first<kProbeTokens>(), "s");
  for (const uint32_t block_tokens : {1u, 16u, 64u}) {
    ChainHasher hasher = *ChainHasher::Create(GetParam(), kRoot, "s", block_tokens, key);
    std::vector<BlockKey> keys = {BlockKey()};
    ASSERT_TRUE(hasher.AppendTokens(std::span(tokens).first(15), keys).ok());
    EXPECT_FALSE(hasher.probe().has_value());
    ASSERT_TRUE(hasher.AppendTokens(std::span(tokens).subspan(15), keys).ok());
    EXPECT_EQ(hasher.probe(), expected);
    ASSERT_TRUE(hasher.Restart("s").ok());
    EXPECT_FALSE(hasher.probe().has_value());
    ASSERT_TRUE(hasher.HashPrompt("", tokens, {}).ok());
    EXPECT_NE(hasher.probe(), expected) << "another salt";
    hasher.GoOnAfter(keys.front());
    EXPECT_FALSE(hasher.probe().has_value()) << "its first tokens were never seen";
    ASSERT_TRUE(hasher.AppendTokens(tokens, keys).ok());
    EXPECT_FALSE(hasher.probe().has_value());
    ASSERT_TRUE(hasher.HashPrompt("s", tokens, {}).ok());
    EXPECT_EQ(hasher.probe(), expected);
  }
  ChainHasher without = Hasher();
  ASSERT_TRUE(without.HashPrompt("", tokens, {}).ok());
  EXPECT_FALSE(without.probe().has_value());
}

TEST(ChainTest, ExternalTakesHashesOnly) {
  ChainHasher hasher = *ChainHasher::Create(HashScheme::kExternal, kRoot, "", 16);
  std::vector<BlockKey> keys;
  EXPECT_EQ(hasher.AppendTokens(Tokens(1), keys).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(hasher.AddExtra({.bytes = "x"}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(hasher.AppendHash("", keys).message(), HasSubstr("0"));
  EXPECT_THAT(hasher.AppendHash(std::string(257, 'h'), keys).message(), HasSubstr("257"));
  ASSERT_TRUE(hasher.AppendHash("hash 1", keys).ok());
  ASSERT_TRUE(hasher.AppendHash("hash 2", keys).ok());
  EXPECT_EQ(hasher.blocks(), 2u);
  EXPECT_EQ(hasher.last(), keys[1]);
  // An engine's hash names its whole prefix, so a resumed chain needs no earlier hash.
  std::vector<BlockKey> resumed;
  ASSERT_TRUE(hasher.Restart("").ok());
  ASSERT_TRUE(hasher.AppendHash("hash 2", resumed).ok());
  EXPECT_EQ(resumed[0], keys[1]);
}

TEST(ChainTest, UnknownSchemeIsRefused) {
  EXPECT_THAT(ChainHasher::Create(static_cast<HashScheme>(4), kRoot, "", 16).status().message(), HasSubstr("4"));
}

}  // namespace
}  // namespace stem
