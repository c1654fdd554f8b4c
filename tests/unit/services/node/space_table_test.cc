#include "services/node/space_table.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

NamespaceSpec Spec(std::string dtype = "bf16", uint64_t block_bytes = 8192) {
  return {.model = "llama",
          .kv_dtype = std::move(dtype),
          .layout = "nhd",
          .block_tokens = 16,
          .parts = {{.id = 0, .block_bytes = block_bytes}}};
}

std::unique_ptr<SpaceTable> Table(const std::string& registry_path = "") {
  return *SpaceTable::Create({.groups = {{.name = "a", .uids = {1000}, .dram_bytes = 1 << 20},
                                         {.name = "b", .uids = {1001, 1002}, .dram_bytes = 1 << 20}},
                              .registry_path = registry_path},
                             std::vector<uint8_t>(32, 7));
}

TEST(SpaceTableTest, TenantsWithEqualModelsShareNothing) {
  const auto table = Table();
  const Space* const a = table->Register(Spec(), 1000, "")->space;
  const Space* const b = table->Register(Spec(), 1001, "")->space;
  EXPECT_NE(a->fingerprint, b->fingerprint);
  EXPECT_NE(a->root, b->root);
  EXPECT_NE(&a->pool(), &b->pool());
  EXPECT_EQ(table->Register(Spec(), 1002, "")->space, b) << "one group";
  EXPECT_EQ(table->Find(a->fingerprint), a);
}

TEST(SpaceTableTest, StrangerIsRefusedAndToldHow) {
  const absl::Status refused = Table()->Register(Spec(), 4711, "").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("4711"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--group"));
  EXPECT_EQ(Table()->Register(Spec(), 1000, "public").status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(SpaceTableTest, LikeNamedNamespaceThatDiffersIsWarnedAboutWithTheField) {
  const auto table = Table();
  EXPECT_TRUE(table->Register(Spec("bf16"), 1000, "")->warnings.empty());
  const SpaceTable::Registered second = *table->Register(Spec("fp8_e4m3"), 1000, "");
  ASSERT_EQ(second.warnings.size(), 1u);
  EXPECT_THAT(second.warnings[0], HasSubstr("kv_dtype (bf16, fp8_e4m3)"));
  EXPECT_TRUE(table->Register(Spec("fp8_e4m3"), 1001, "")->warnings.empty()) << "other tenants are not told of";
}

TEST(SpaceTableTest, BlocksThatDoNotFitAreRefusedWithBothSizes) {
  const auto table = Table();
  ASSERT_TRUE(table->Register(Spec("bf16", 8192), 1000, "").ok());
  EXPECT_TRUE(table->Register(Spec("int8", 4096), 1000, "").ok()) << "smaller blocks fit";
  const absl::Status refused = table->Register(Spec("fp32", 16384), 1000, "").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("16384"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("8192"));
  EXPECT_EQ(table->Register(Spec("fp32", 2 << 20), 1001, "").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(SpaceTableTest, NamespacesAreKnownAgainAfterARestart) {
  const TempDirectory directory;
  const std::string path = directory.path() + "/namespaces";
  const NamespaceFingerprint fingerprint = Table(path)->Register(Spec(), 1000, "")->space->fingerprint;
  const auto restarted = Table(path);
  ASSERT_NE(restarted->Find(fingerprint), nullptr);
  EXPECT_EQ(restarted->Find(fingerprint)->spec, Spec());
  std::ofstream(path, std::ios::trunc) << "not a registry";
  EXPECT_EQ(SpaceTable::Create({.registry_path = path}, {}).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace stem
