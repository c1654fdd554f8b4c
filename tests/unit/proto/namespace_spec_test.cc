#include "proto/namespace_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "absl/strings/str_join.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

NamespaceSpec Example() {
  return {.model = "m",
          .revision = "r",
          .weights_digest = "w",
          .kv_dtype = "fp8_e4m3",
          .scale_scheme = "s",
          .layout = "nhd",
          .instruction_set = "i",
          .block_tokens = 16,
          .hash_scheme = HashScheme::kXxh3,
          .parts = {Part{.id = 0, .block_bytes = 4096},
                    Part{.id = 3, .group = GroupKind::kWindow, .window_tokens = 64, .block_bytes = 8192}},
          .tokenizer_digest = "t",
          .chat_template_digest = "c",
          .spill_encoding = SpillEncoding::kExact};
}

struct Change {
  const char* field;
  std::function<void(NamespaceSpec&)> apply;
};

const std::vector<Change>& FingerprintChanges() {
  static const std::vector<Change> changes = {
      {"model", [](NamespaceSpec& s) { s.model.push_back('x'); }},
      {"revision", [](NamespaceSpec& s) { s.revision.clear(); }},
      {"weights_digest", [](NamespaceSpec& s) { s.weights_digest.push_back('x'); }},
      {"kv_dtype", [](NamespaceSpec& s) { s.kv_dtype.push_back('x'); }},
      {"scale_scheme", [](NamespaceSpec& s) { s.scale_scheme.push_back('x'); }},
      {"layout", [](NamespaceSpec& s) { s.layout.push_back('x'); }},
      {"instruction_set", [](NamespaceSpec& s) { s.instruction_set.push_back('x'); }},
      {"block_tokens", [](NamespaceSpec& s) { s.block_tokens = 17; }},
      {"hash_scheme", [](NamespaceSpec& s) { s.hash_scheme = HashScheme::kSha256; }},
      {"parts", [](NamespaceSpec& s) { s.parts.pop_back(); }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].id = 4; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].group = GroupKind::kFull; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].window_tokens = 65; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].layer_first = 1; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].layer_count = 2; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].head_first = 1; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].head_count = 2; }},
      {"parts", [](NamespaceSpec& s) { s.parts[1].block_bytes = 8193; }},
      {"spill_encoding", [](NamespaceSpec& s) { s.spill_encoding = SpillEncoding::kInt8; }},
      {"spill_encoding", [](NamespaceSpec& s) { s.spill_encoding = SpillEncoding::kFp8E4m3; }},
  };
  return changes;
}

TEST(NamespaceSpecTest, EveryFieldOfTheFingerprintChangesIt) {
  std::set<std::string> seen = {FingerprintOf(Example(), "g").ToHex()};
  for (const Change& change : FingerprintChanges()) {
    NamespaceSpec spec = Example();
    change.apply(spec);
    EXPECT_TRUE(seen.insert(FingerprintOf(spec, "g").ToHex()).second) << change.field;
  }
  EXPECT_TRUE(seen.insert(FingerprintOf(Example(), "h").ToHex()).second);
}

TEST(NamespaceSpecTest, SpillEncodingsHaveNamesAndEmptyIsExact) {
  EXPECT_EQ(*ParseSpillEncoding(""), SpillEncoding::kExact);
  for (uint32_t i = 0; i < kSpillEncodings; ++i) {
    EXPECT_EQ(*ParseSpillEncoding(SpillEncodingName(static_cast<SpillEncoding>(i))), static_cast<SpillEncoding>(i));
  }
  EXPECT_EQ(ParseSpillEncoding("int4").status().message(), "spill_encoding is 'int4'; it must be exact, fp8_e4m3, int8");
}

TEST(NamespaceSpecTest, TextCannotMoveFromOneFieldToTheNext) {
  NamespaceSpec left = Example(), right = Example();
  left.model = std::string("ab"), left.revision = std::string("c");
  right.model = std::string("a"), right.revision = std::string("bc");
  EXPECT_NE(FingerprintOf(left, "g"), FingerprintOf(right, "g"));
}

TEST(NamespaceSpecTest, TokenizerAndTemplateAreComparedButDoNotName) {
  NamespaceSpec spec = Example();
  spec.tokenizer_digest = "other";
  spec.chat_template_digest.clear();
  EXPECT_EQ(FingerprintOf(spec, "g"), FingerprintOf(Example(), "g"));
  EXPECT_THAT(DifferingFields(Example(), spec),
              ElementsAre("tokenizer_digest (t, other)", "chat_template_digest (c, )"));
}

TEST(NamespaceSpecTest, DifferingFieldsNamesExactlyTheField) {
  EXPECT_THAT(DifferingFields(Example(), Example()), IsEmpty());
  for (const Change& change : FingerprintChanges()) {
    NamespaceSpec spec = Example();
    change.apply(spec);
    const std::vector<std::string> fields = DifferingFields(Example(), spec);
    ASSERT_EQ(fields.size(), 1u) << change.field << ": " << absl::StrJoin(fields, ", ");
    EXPECT_EQ(fields[0].rfind(std::string(change.field) + " (", 0), 0u) << fields[0];
  }
}

TEST(NamespaceSpecTest, RootDependsOnSecretGroupAndNamespace) {
  const std::vector<uint8_t> secret(32, 1), other_secret(32, 2);
  const NamespaceFingerprint space = FingerprintOf(Example(), "g");
  const NamespaceFingerprint other_space = FingerprintOf(Example(), "h");
  const std::set<Root> roots = {RootOf(secret, "g", space), RootOf(other_secret, "g", space),
                                RootOf(secret, "h", space), RootOf(secret, "g", other_space)};
  EXPECT_EQ(roots.size(), 4u);
}

TEST(NamespaceSpecTest, PartsAreFoundAndTheLargestSetsTheSlot) {
  const NamespaceSpec spec = Example();
  EXPECT_EQ(spec.block_bytes_max(), 8192u);
  ASSERT_NE(spec.part(3), nullptr);
  EXPECT_EQ(spec.part(3)->window_tokens, 64u);
  EXPECT_EQ(spec.part(1), nullptr);
}

TEST(NamespaceSpecTest, OfWindowsAndStatesTheLastBlocksAreNeeded) {
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kFull}, 16), 0u);
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kState}, 16), 1u);
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kWindow, .window_tokens = 1}, 16), 1u);
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kWindow, .window_tokens = 32}, 16), 2u);
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kWindow, .window_tokens = 33}, 16), 3u);
  EXPECT_EQ(WindowBlocks({.group = GroupKind::kWindow, .window_tokens = UINT32_MAX}, 1), UINT32_MAX);
  EXPECT_TRUE(IsNeeded(0, 0, 10)) << "full attention";
  EXPECT_TRUE(IsNeeded(3, 7, 10));
  EXPECT_FALSE(IsNeeded(3, 6, 10));
  EXPECT_TRUE(IsNeeded(20, 0, 10)) << "the window is longer than the stem";
}

}  // namespace
}  // namespace stem
