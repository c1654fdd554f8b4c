// An engine's KV events become keys: those that the engine's connector makes of the same tokens.
#include "services/node/engines/engine_blocks.h"

#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;
using Json = nlohmann::json;
using Kind = EngineEvent::Kind;

constexpr uint32_t kEngineTokens = 4;

// What a directory would know.
class Directory {
 public:
  explicit Directory(uint32_t block_tokens = 2 * kEngineTokens) {
    spec_.model = "m";
    spec_.kv_dtype = "bf16";
    spec_.layout = "l";
    spec_.block_tokens = block_tokens;
    spec_.parts = {{.block_bytes = 4096}};
    fingerprint_ = FingerprintOf(spec_, "tenant");
    root_.fill(7);
    blocks_ = *EngineBlocks::Create(spec_, fingerprint_, root_, [this](const BlockChange& change) {
      EXPECT_EQ(change.name.space, EngineCacheOf(fingerprint_));
      if (change.residence == Residence::kGone) {
        EXPECT_EQ(held_.erase(change.name.key), 1u);
      } else {
        EXPECT_TRUE(held_.emplace(change.name.key, change.parent).second);
      }
    });
  }

  // Keys as clients make them.
  std::vector<BlockKey> Keys(const std::vector<uint32_t>& tokens, absl::string_view salt = "",
                             std::span<const PlacedExtra> extras = {}) const {
    ChainHasher hasher = *ChainHasher::Create(spec_.hash_scheme, root_, salt, spec_.block_tokens);
    return *hasher.HashPrompt(salt, tokens, extras);
  }
  std::vector<BlockKey> held() const {
    std::vector<BlockKey> keys;
    for (const auto& [key, parent] : held_) keys.push_back(key);
    return keys;
  }
  // The same from the snapshot, which a directory that comes later gets.
  size_t snapshot() const {
    size_t blocks = 0;
    blocks_->Snapshot([&](const BlockChange& change) {
      EXPECT_TRUE(held_.contains(change.name.key));
      ++blocks;
    });
    return blocks;
  }
  const std::optional<BlockKey>& parent(const BlockKey& key) const { return held_.at(key); }
  EngineBlocks& blocks() { return *blocks_; }

 private:
  NamespaceSpec spec_;
  NamespaceFingerprint fingerprint_;
  Root root_;
  std::map<BlockKey, std::optional<BlockKey>> held_;
  std::unique_ptr<EngineBlocks> blocks_;
};

std::vector<uint32_t> Tokens(size_t count, uint32_t first = 100) {
  std::vector<uint32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

EngineEvent Stored(const std::vector<std::string>& hashes, std::vector<uint32_t> tokens, std::optional<std::string> parent = {}) {
  return {.kind = Kind::kStored, .hashes = hashes, .parent = std::move(parent), .tokens = std::move(tokens), .block_tokens = kEngineTokens,
          .extras = {}};
}
EngineEvent Removed(const std::vector<std::string>& hashes) {
  EngineEvent event;
  event.kind = Kind::kRemoved;
  event.hashes = hashes;
  return event;
}

TEST(EngineBlocksTest, BlocksGetTheKeysThatClientsMake) {
  Directory directory;
  const std::vector<uint32_t> tokens = Tokens(22);
  const std::vector<BlockKey> keys = directory.Keys(tokens);
  ASSERT_EQ(keys.size(), 2u);
  ASSERT_TRUE(directory.blocks().Apply(Stored({"a", "b", "c"}, Tokens(12))).ok());
  EXPECT_THAT(directory.held(), ElementsAre(keys[0])) << "half of the second is there";
  ASSERT_TRUE(directory.blocks().Apply(Stored({"d", "e"}, Tokens(8, 112), "c")).ok());
  EXPECT_THAT(directory.held(), UnorderedElementsAre(keys[0], keys[1]));
  EXPECT_EQ(directory.parent(keys[0]), std::nullopt);
  EXPECT_EQ(directory.parent(keys[1]), keys[0]);
  EXPECT_EQ(directory.snapshot(), 2u);
  EXPECT_EQ(directory.blocks().stats().engine_blocks, 5u);
}

TEST(EngineBlocksTest, ABlockGoesWithAnyOfItsPiecesAndComesBackWithIt) {
  Directory directory;
  const std::vector<BlockKey> keys = directory.Keys(Tokens(16));
  ASSERT_TRUE(directory.blocks().Apply(Stored({"a", "b", "c", "d"}, Tokens(16))).ok());
  ASSERT_TRUE(directory.blocks().Apply(Stored({"x"}, Tokens(4, 9), "a")).ok()) << "another prompt with the same first piece";
  EXPECT_EQ(directory.held().size(), 3u);
  ASSERT_TRUE(directory.blocks().Apply(Removed({"a", "nobody"})).ok());
  EXPECT_THAT(directory.held(), ElementsAre(keys[1])) << "both that began with it went";
  EXPECT_EQ(directory.snapshot(), 1u);
  ASSERT_TRUE(directory.blocks().Apply(Stored({"a"}, Tokens(4))).ok());
  EXPECT_EQ(directory.held().size(), 3u);
  ASSERT_TRUE(directory.blocks().Apply(Removed({"d", "c", "b", "x", "a"})).ok());
  EXPECT_TRUE(directory.held().empty());
  EXPECT_EQ(directory.blocks().stats().engine_blocks, 0u);
  ASSERT_TRUE(directory.blocks().Apply(Stored({"e"}, Tokens(4, 116), "d")).ok());
  EXPECT_EQ(directory.blocks().stats().dropped, 1u) << "nothing was kept of what left";
}

TEST(EngineBlocksTest, ClearedIsEmptyAndBeginsAgain) {
  Directory directory;
  ASSERT_TRUE(directory.blocks().Apply(Stored({"a", "b"}, Tokens(8))).ok());
  EngineEvent cleared;
  cleared.kind = Kind::kCleared;
  ASSERT_TRUE(directory.blocks().Apply(cleared).ok());
  EXPECT_TRUE(directory.held().empty());
  ASSERT_TRUE(directory.blocks().Apply(Stored({"a", "b"}, Tokens(8))).ok());
  EXPECT_EQ(directory.held().size(), 1u);
}

TEST(EngineBlocksTest, SaltsAndItemsCount) {
  Directory directory;
  EngineEvent salted = Stored({"a", "b"}, Tokens(8));
  salted.extras = {{{.text = "salt", .offset_tokens = {}}}};
  ASSERT_TRUE(directory.blocks().Apply(salted).ok());
  EXPECT_THAT(directory.held(), ElementsAre(directory.Keys(Tokens(8), "salt")[0]));

  Directory pictures;
  // An item that begins at token 6 and goes on into the second block of the namespace.
  EngineEvent event = Stored({"a", "b", "c", "d"}, Tokens(16));
  event.extras = {{}, {{.text = "picture", .offset_tokens = 2}}, {{.text = "picture", .offset_tokens = -2}}, {}};
  ASSERT_TRUE(pictures.blocks().Apply(event).ok());
  const PlacedExtra placed = {.block = 0, .extra = {.tag = ExtraTag::kMultimodal, .bytes = "picture", .offset_tokens = 6}};
  const std::vector<BlockKey> keys = pictures.Keys(Tokens(16), "", {&placed, 1});
  EXPECT_THAT(pictures.held(), UnorderedElementsAre(keys[0], keys[1]));
}

TEST(EngineBlocksTest, BehindABlockThatHasNoKeyNothingHasOne) {
  Directory directory;
  EngineEvent event = Stored({"a", "b", "c", "d"}, Tokens(16));
  event.extras.assign(4, {});
  event.extras[1].assign(kExtrasPerBlockMax + 1, {.text = "picture", .offset_tokens = 0});
  ASSERT_TRUE(directory.blocks().Apply(event).ok());
  ASSERT_TRUE(directory.blocks().Apply(Stored({"e", "f"}, Tokens(8, 116), "d")).ok());
  EXPECT_TRUE(directory.held().empty()) << "hashed as if they began a chain";
  EXPECT_EQ(directory.blocks().stats().engine_blocks, 6u);
  ASSERT_TRUE(directory.blocks().Apply(Stored({"x", "y"}, Tokens(8, 7), "a")).ok()) << "another second piece";
  std::vector<uint32_t> tokens = Tokens(4);
  tokens.insert(tokens.end(), {7, 8, 9, 10});
  EXPECT_THAT(directory.held(), ElementsAre(directory.Keys(tokens)[0]));
}

TEST(EngineBlocksTest, SizesThatDoNotFitAreRefusedAndTailsAreNot) {
  Directory directory(6);
  EXPECT_THAT(std::string(directory.blocks().Apply(Stored({"a"}, Tokens(4))).message()), HasSubstr("4 tokens, which do not divide the namespace's 6"));
  Directory tails;
  EngineEvent tail = Stored({"t"}, Tokens(2));
  tail.block_tokens = 2;
  ASSERT_TRUE(tails.blocks().Apply(tail).ok());
  ASSERT_TRUE(tails.blocks().Apply(Stored({"a", "b"}, Tokens(8))).ok());
  EXPECT_EQ(tails.held().size(), 1u);
  ASSERT_TRUE(tails.blocks().Apply(tail).ok());
  EXPECT_EQ(tails.blocks().stats().dropped, 1u);
}

TEST(EngineBlocksTest, WhatIsKeptIsBoundedAndComesFreeAgain) {
  constexpr uint32_t kTokens = 1 << 15;
  Directory directory(2 * kTokens);
  const auto half = [&](uint32_t n) {
    EngineEvent event = Stored({absl::StrCat("half ", n)}, std::vector<uint32_t>(kTokens, n));
    event.block_tokens = kTokens;
    return event;
  };
  const uint32_t fit = EngineBlocks::kKeptBytesMax / (kTokens * sizeof(uint32_t)) + 1;
  for (uint32_t n = 0; n < fit + 10; ++n) ASSERT_TRUE(directory.blocks().Apply(half(n)).ok());
  EXPECT_EQ(directory.blocks().stats().engine_blocks, fit);
  EXPECT_EQ(directory.blocks().stats().dropped, 10u);
  ASSERT_TRUE(directory.blocks().Apply(Removed({"half 0", "half 1"})).ok());
  ASSERT_TRUE(directory.blocks().Apply(half(fit)).ok());
  EXPECT_EQ(directory.blocks().stats().engine_blocks, fit - 1);

  Directory crumbs(EngineBlocks::kPiecesMax + 1);
  EngineEvent crumb = Stored({"crumb"}, Tokens(1));
  crumb.block_tokens = 1;
  ASSERT_TRUE(crumbs.blocks().Apply(crumb).ok());
  EXPECT_EQ(crumbs.blocks().stats().dropped, 1u);
}

std::string Packed(const Json& batch) {
  const std::vector<uint8_t> bytes = Json::to_msgpack(batch);
  return {bytes.begin(), bytes.end()};
}
Json Bytes(const std::string& text) { return Json::binary(std::vector<uint8_t>(text.begin(), text.end())); }

Json BatchOf(Json event) { return {1.5, Json::array({std::move(event)}), 0}; }

TEST(EngineEventsTest, VllmsBatchesAreRead) {
  const Json stored = {{"type", "BlockStored"}, {"block_hashes", Json::array({Bytes("a"), Bytes("b")})}, {"parent_block_hash", nullptr},
                       {"token_ids", {1, 2, 3, 4}}, {"block_size", 2}, {"lora_id", nullptr}, {"medium", "GPU"}, {"lora_name", nullptr},
                       {"extra_keys", Json::array({Json::array({"salt", Json::array({"picture", 1})}), nullptr})}, {"group_idx", 0},
                       {"kv_cache_spec_kind", "full_attention"}};
  const auto batch = DecodeEngineEvents(Packed(BatchOf(stored)));
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->unix_seconds, 1.5);
  ASSERT_EQ(batch->events.size(), 1u);
  const EngineEvent& event = batch->events.front();
  EXPECT_EQ(event.kind, Kind::kStored);
  EXPECT_THAT(event.hashes, ElementsAre("a", "b"));
  EXPECT_EQ(event.parent, std::nullopt);
  EXPECT_THAT(event.tokens, ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(event.extras.size(), 2u);
  EXPECT_EQ(event.extras[0][0].text, "salt");
  EXPECT_EQ(event.extras[0][1].offset_tokens, 1);

  const Json removed = {{"type", "BlockRemoved"}, {"block_hashes", Json::array({Bytes("a")})}, {"medium", "GPU"}};
  EXPECT_EQ(DecodeEngineEvents(Packed(BatchOf(removed)))->events[0].kind, Kind::kRemoved);
  EXPECT_EQ(DecodeEngineEvents(Packed(BatchOf({{"type", "AllBlocksCleared"}})))->events[0].kind, Kind::kCleared);
}

TEST(EngineEventsTest, WhatHasNoKeyHereIsLeftOut) {
  const Json stored = {{"type", "BlockStored"}, {"block_hashes", Json::array({Bytes("a")})}, {"token_ids", {1, 2}}, {"block_size", 2}};
  EXPECT_EQ(DecodeEngineEvents(Packed(BatchOf(stored)))->events[0].kind, Kind::kStored) << "defaults are left out";
  for (const auto& [name, value] : std::map<std::string, Json>{{"medium", "CPU"}, {"group_idx", 1}, {"lora_name", "adapter"},
                                                               {"kv_cache_spec_kind", "sliding_window"},
                                                               {"extra_keys", Json::array({Json::array({Bytes("embedding")})})},
                                                               {"type", "BlockMoved"}}) {
    Json other = stored;
    other[name] = value;
    const auto batch = DecodeEngineEvents(Packed(BatchOf(other)));
    ASSERT_TRUE(batch.ok()) << name << batch.status();
    EXPECT_EQ(batch->events[0].kind, Kind::kOther) << name;
  }
}

TEST(EngineEventsTest, CutHashesAreRefusedWithTheSettingAndNonsenseIsRefused) {
  const Json cut = {{"type", "BlockRemoved"}, {"block_hashes", {12345}}};
  const absl::Status status = DecodeEngineEvents(Packed(BatchOf(cut))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0"));
  const Json short_tokens = {{"type", "BlockStored"}, {"block_hashes", Json::array({Bytes("a")})}, {"token_ids", {1}}, {"block_size", 2}};
  const Json negative = {{"type", "BlockStored"}, {"block_hashes", Json::array({Bytes("a")})}, {"token_ids", {-1, 2}}, {"block_size", 2}};
  for (const size_t bytes : {0, 65}) {
    const Json removed = {{"type", "BlockRemoved"}, {"block_hashes", Json::array({Bytes(std::string(bytes, 'h'))})}};
    EXPECT_THAT(std::string(DecodeEngineEvents(Packed(BatchOf(removed))).status().message()), HasSubstr(absl::StrCat("hash of ", bytes, " bytes")));
  }
  Json placed = {{"type", "BlockStored"}, {"block_hashes", Json::array({Bytes("a")})}, {"token_ids", {1, 2}}, {"block_size", 2}};
  for (const Json& offset : {Json(2), Json((1ULL << 32) + 1), Json(UINT64_MAX), Json(INT64_MAX)}) {
    placed["extra_keys"] = Json::array({Json::array({Json::array({"picture", offset})})});
    EXPECT_THAT(std::string(DecodeEngineEvents(Packed(BatchOf(placed))).status().message()), HasSubstr("of a block of 2")) << offset;
  }
  for (const std::string& payload : {std::string(), std::string("\xc1"), Packed({1, 2}), Packed(BatchOf("text")), Packed(BatchOf({{"type", 1}})),
                                     Packed(BatchOf({{"type", "BlockRemoved"}})), Packed(BatchOf(short_tokens)), Packed(BatchOf(negative)),
                                     Packed(BatchOf(cut)).substr(0, 9), std::string(kEventBytesMax, '\x91')}) {
    EXPECT_FALSE(DecodeEngineEvents(payload).ok());
  }
}

}  // namespace
}  // namespace stem
