#include "services/node/spaces/space_table.h"

#include <chrono>
#include <fstream>
#include <future>

#include "absl/time/clock.h"
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

TEST(SpaceTableTest, QuotaBeyondWhatTheNodeHasIsRefusedWhateverItAddsUpTo) {
  const auto table = *SpaceTable::Create({.groups = {{.name = "a", .uids = {1000}, .dram_bytes = 1 << 20, .ssd_bytes = 3 << 20},
                                                     {.name = "b", .uids = {1001}, .dram_bytes = 1 << 20, .ssd_bytes = 1 << 20}},
                                          .ssd_bytes = 4 << 20},
                                         std::vector<uint8_t>(32, 7));
  for (const uint64_t ssd_bytes : {UINT64_MAX, UINT64_MAX - (1 << 20) + 1, uint64_t{3 << 20} + 1}) {
    EXPECT_EQ(table->SetQuota("a", {.ssd_bytes = ssd_bytes}).status().code(), absl::StatusCode::kInvalidArgument) << ssd_bytes;
  }
  EXPECT_EQ(table->SetQuota("a", {.dram_bytes = UINT64_MAX}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table->SetQuota("a", {.ssd_bytes = 3 << 20})->ssd_bytes, 3u << 20);
  EXPECT_EQ(table->SetQuota("b", {.dram_bytes = 1 << 19})->dram_bytes, 1u << 19);
  EXPECT_EQ(table->QuotaOf(*table->memories()[1]).dram_bytes, 1u << 19) << "before its first namespace too";
}

TEST(SpaceTableTest, NobodyWaitsForTheTableWhileAQuotaEvicts) {
  SpaceTable* asked = nullptr;
  std::vector<std::future<size_t>> leases;
  const auto table = *SpaceTable::Create({.groups = {{.name = "a", .uids = {1000}, .dram_bytes = 1 << 20}},
                                          .on_change =
                                              [&](const BlockChange& change) {
                                                if (change.residence != Residence::kGone) return;
                                                leases.push_back(std::async(std::launch::async, [&] { return asked->All().size(); }));
                                                EXPECT_EQ(leases.back().wait_for(std::chrono::seconds(20)), std::future_status::ready);
                                              }},
                                         std::vector<uint8_t>(32, 7));
  asked = table.get();
  const Space* const space = table->Register(Spec(), 1000, "")->space;
  for (uint64_t number = 0; number < 4; ++number) {
    Filling filling = *space->pool().BeginFill({space->fingerprint, {{.low = number, .high = 1}}}, std::nullopt, absl::Now());
    ASSERT_TRUE(std::move(filling).Commit(64, 1, 2).ok());
  }
  ASSERT_TRUE(table->SetQuota("a", {.dram_bytes = 3 * space->pool().geometry().slot_bytes}).ok());
  EXPECT_EQ(leases.size(), 1u);
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
