#include "services/ctl/planner/plan.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/model_table.h"
#include "services/ctl/planner/plan_report.h"

namespace stem::planner {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kGiB = 1 << 30;

PlanOptions Options(const std::string& gpu = "", uint32_t tensor = 1) {
  PlanOptions options;
  options.kv = *ParseKvDtype("bf16");
  options.parallel.tensor = tensor;
  if (!gpu.empty()) options.gpu = *FindGpu(gpu);
  return options;
}

Plan Make(const std::string& model, const PlanOptions& options) {
  absl::StatusOr<Plan> plan = MakePlan(*FindModel(model), options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *std::move(plan);
}

std::string ErrorOf(const PlanOptions& options) {
  const absl::StatusOr<Plan> plan = MakePlan(*FindModel("llama-3-8b"), options);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(plan.status().message());
}

const ContextRow& RowOf(const Plan& plan, uint64_t tokens) {
  for (const ContextRow& row : plan.contexts) {
    if (row.tokens == tokens) return row;
  }
  ADD_FAILURE() << "no row of " << tokens;
  return plan.contexts.front();
}

class PricesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "stem-prices-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    ASSERT_GE(fd, 0);
    ::close(fd);
    path_ = name;
  }
  void TearDown() override { std::filesystem::remove(path_); }

  absl::StatusOr<Prices> Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ReadPrices(path_);
  }

  std::string path_;
};

// 79 GiB x 0.5 - 16.06e9 bytes of weights - 2 GiB = 22.54 GiB; a request of 8,192 tokens takes 1 GiB.
TEST(PlanTest, WhatIsLeftIsSharedOut) {
  PlanOptions options = Options("h100");
  options.gpu_utilization = 0.5;
  options.activation_gib = 2;
  const Plan plan = Make("llama-3-8b", options);
  EXPECT_NEAR(static_cast<double>(plan.weights_bytes), 16.06e9, 0.01e9);
  EXPECT_EQ(plan.rank_kv_bytes, static_cast<int64_t>(79 * kGiB / 2 - plan.weights_bytes - 2 * kGiB));
  EXPECT_EQ(RowOf(plan, 8192).request_bytes, kGiB);
  EXPECT_EQ(RowOf(plan, 8192).batch_max, 22u);
  EXPECT_EQ(RowOf(plan, 2048).batch_max, 90u);
  EXPECT_EQ(RowOf(plan, 131072).batch_max, 1u);
  EXPECT_TRUE(RowOf(plan, 131072).beyond_model);
  EXPECT_EQ(plan.engine.blocks, static_cast<uint64_t>(plan.rank_kv_bytes) / (2 << 20));
}

TEST(PlanTest, LongestContextIsTheLastThatFits) {
  PlanOptions options = Options("h100");
  options.concurrency = 50;
  const Plan plan = Make("llama-3.1-8b", options);
  for (const BatchRow& row : plan.batches) {
    if (row.model_ends) {
      EXPECT_EQ(row.context_max, 131072u);
      continue;
    }
    const auto pool = static_cast<uint64_t>(plan.rank_kv_bytes);
    EXPECT_LE(row.batch * plan.kv.RankRequestBytes(row.context_max), pool) << row.batch;
    EXPECT_GT(row.batch * plan.kv.RankRequestBytes(row.context_max + 1), pool) << row.batch;
  }
  EXPECT_TRUE(plan.batches.front().model_ends);
  EXPECT_FALSE(plan.batches.back().model_ends);
}

TEST(PlanTest, WeightsTooLargeAreSaid) {
  const Plan plan = Make("llama-3.1-405b", Options("h100", 8));
  EXPECT_FALSE(plan.fits());
  EXPECT_EQ(RowOf(plan, 2048).batch_max, 0u);
  EXPECT_THAT(PlanText(plan), HasSubstr("DOES NOT FIT on 8 x h100"));
  PlanOptions smaller = Options("h100", 8);
  smaller.weights = "fp8";
  EXPECT_TRUE(Make("llama-3.1-405b", smaller).fits());
}

// gpt-oss-120b: experts at 4.25 bits, the rest in bf16; published as a checkpoint of 60.8 GiB.
TEST(PlanTest, ExpertsOfFourBitsWeighWhatIsPublished) {
  const Plan plan = Make("gpt-oss-120b", Options());
  EXPECT_NEAR(static_cast<double>(plan.weights_bytes) / kGiB, 60.8, 0.6);
}

// A decoded token reads what is not an expert in bf16, and 4 of 128 experts at 4.25 bits; its keys and values of 2,048 tokens too.
TEST(PlanTest, DenseWeightsOfFourBitModelsAreReadInSixteen) {
  PlanOptions options = Options();
  options.gpu = Gpu{"fast", 80, 1000, 1e6};
  const Plan plan = Make("gpt-oss-120b", options);
  const double dense = 2 * static_cast<double>(plan.model.parameters - plan.model.routed);
  const double experts = 0.53125 * static_cast<double>(plan.model.routed) * 4 / 128;
  const double kv = static_cast<double>(plan.kv.RequestBytes(2048));
  EXPECT_NEAR(RowOf(plan, 2048).decode_ms, (dense + experts + kv) / 0.8e12 * 1e3, 1e-6);
}

// As vLLM 0.32 prints for a model of these sizes: 1 GiB / 2 MiB = 512 blocks, 64 of them a request of 1,024 tokens.
TEST(PlanTest, VllmsLineIsForetold) {
  PlanOptions options = Options();
  options.kv_memory_bytes = kGiB;
  options.contexts = {100, 1024};
  const Plan plan = Make("llama-3-8b", options);
  EXPECT_EQ(plan.engine.blocks, 512u);
  EXPECT_EQ(plan.engine.request_blocks, 64u);
  EXPECT_EQ(plan.engine.tokens(), 8192u);
  EXPECT_DOUBLE_EQ(plan.engine.concurrency(), 8);
  EXPECT_EQ(RowOf(plan, 1024).batch_max, 8u);
  EXPECT_THAT(PlanText(plan), HasSubstr("KV cache size 8,192 tokens, maximum concurrency for 1,024 tokens 8.00x"));
}

// 70B: 64 heads to 8 is 87.5 % less; fp8 halves what is left. V3: 576 of 128 x (192 + 128) values.
TEST(PlanTest, SavingsAreAgainstEveryHeadInHalfPrecision) {
  const Plan plan = Make("llama-2-70b", Options());
  ASSERT_GE(plan.savings.size(), 3u);
  EXPECT_EQ(plan.savings[0].request_bytes, uint64_t{8192} * 2621440);
  EXPECT_DOUBLE_EQ(plan.savings[1].percent, 87.5);
  EXPECT_DOUBLE_EQ(plan.savings[2].percent, 93.75);
  EXPECT_NEAR(Make("deepseek-v3", Options()).savings[1].percent, 100 * (1 - 576.0 / 40960), 1e-9);
}

// 10^12 bf16 operations a second at half, one prompt: 2 x 8.03e9 x 2048 + attention 4 x 32 x 32 x 128 x 2048^2 / 2.
TEST(PlanTest, TimesFollowTheRoofline) {
  PlanOptions options = Options();
  options.gpu = Gpu{"slow", 80, 1000, 1};
  const Plan plan = Make("llama-3-8b", options);
  const double operations = 2 * static_cast<double>(plan.model.active) * 2048 + 4.0 * 32 * 32 * 128 * 2048 * 2048 / 2;
  EXPECT_NEAR(RowOf(plan, 2048).prefill_s, operations / 0.5e12, 0.01);
  // A token alone reads all weights and its 256 MiB of keys and values at 0.8 x 10^12 bytes a second.
  const double read_ms = (static_cast<double>(plan.weights_bytes) + (1 << 28)) / 0.8e12 * 1e3;
  const double compute_ms = 2 * static_cast<double>(plan.model.active) / 0.5e12 * 1e3;
  EXPECT_NEAR(RowOf(plan, 2048).decode_ms, std::max(read_ms, compute_ms), 1e-6);
  options.gpu->dense_bf16_tflops = 0;
  EXPECT_EQ(RowOf(Make("llama-3-8b", options), 2048).prefill_s, 0);
}

TEST(PlanTest, TiersHoldWholeBlocksAndConversations) {
  PlanOptions options = Options("", 8);
  options.contexts = {1000};
  options.dram_bytes = kGiB;
  options.ssd_bytes = 10 * kGiB;
  const Plan plan = Make("llama-3-8b", options);
  EXPECT_EQ(plan.stored_block_bytes, 64u * 131072);  // 8 MiB
  ASSERT_EQ(plan.tiers.size(), 2u);
  EXPECT_EQ(plan.tiers[0].blocks, 128u);
  EXPECT_EQ(plan.tiers[0].conversations, 8u);  // 16 blocks each
  EXPECT_EQ(plan.tiers[1].tokens, 1280u * 64);
  EXPECT_LT(plan.tiers[0].cost_per_million, 0);
  // Eight ranks hold the same latent vector; the tier keeps one.
  EXPECT_EQ(Make("deepseek-v3", options).stored_block_bytes, 64u * 70272);
}

TEST(PlanTest, HybridsPrintTheirFloor) {
  const Plan plan = Make("qwen3.5-27b", Options());
  EXPECT_EQ(plan.stored_block_tokens, 784u);
  EXPECT_EQ(plan.stored_block_bytes, 784 * plan.kv.stored_token() + plan.kv.state());
  EXPECT_THAT(PlanText(plan), AllOf(HasSubstr("FLOOR"), HasSubstr("784 tokens"), HasSubstr("Fixed per request")));
  EXPECT_THAT(PlanText(Make("llama-3-8b", Options())), Not(HasSubstr("FLOOR")));
}

TEST(PlanTest, HalfOfACopiedTableIsExplained) {
  EXPECT_THAT(PlanText(Make("llama-2-7b", Options())), HasSubstr("2,048 tokens take 1.00 GiB"));
  EXPECT_THAT(PlanText(Make("llama-2-70b", Options())), Not(HasSubstr("Tables that show half")));
}

TEST(PlanTest, NumbersOutOfRangeAreNamed) {
  PlanOptions options = Options();
  options.contexts = {0};
  EXPECT_THAT(ErrorOf(options), HasSubstr("--context 0"));
  options = Options();
  options.parallel.tensor = 0;
  EXPECT_THAT(ErrorOf(options), HasSubstr("--tensor-parallel 0"));
  options = Options();
  options.holding.engine_block_tokens = 0;
  EXPECT_THAT(ErrorOf(options), HasSubstr("--engine-block 0"));
  options = Options();
  options.gpu = Gpu{"x", -5, 0, 0};
  EXPECT_THAT(ErrorOf(options), HasSubstr("--gpu-memory-gib -5"));
  options = Options();
  options.weights = "fp7";
  EXPECT_THAT(ErrorOf(options), HasSubstr("fp7"));
  EXPECT_THAT(FindGpu("h1000").status().message(), HasSubstr("h100"));
}

TEST(PlanTest, JsonHasTheSameNumbers) {
  PlanOptions options = Options("h200", 8);
  options.dram_bytes = kGiB;
  const Plan plan = Make("deepseek-v3", options);
  const nlohmann::json json = PlanJson(plan);
  EXPECT_EQ(json["kv"]["bytes_per_token_distinct"], 70272);
  EXPECT_EQ(json["kv"]["bytes_per_token"], 8 * 70272);
  EXPECT_EQ(json["gpu"]["kv_bytes"], plan.rank_kv_bytes);
  EXPECT_EQ(json["contexts"].size(), 4u);
  EXPECT_EQ(json["stemcache"]["tiers"][0]["blocks"], plan.tiers[0].blocks);
  EXPECT_FALSE(json["stemcache"]["tiers"][0].contains("cost_per_million_saved"));
}

// 131,072 bytes a token x 10^6 = 131.072 GB; at 2 a GB and month = 262.144, over 10 x 365 / 12 hits.
TEST_F(PricesTest, CostOfAMillionTokensSaved) {
  PlanOptions options = Options("h100");
  options.dram_bytes = kGiB;
  options.hits_per_day = 10;
  const absl::StatusOr<Prices> prices = Read(R"({"gpu_hour": 3.6, "dram_gb_month": 2, "ssd_gb_month": 0})");
  ASSERT_TRUE(prices.ok()) << prices.status();
  options.prices = *prices;
  const Plan plan = Make("llama-3-8b", options);
  EXPECT_NEAR(plan.tiers[0].cost_per_million, 262.144 / (10 * 365.0 / 12), 1e-9);
  EXPECT_NEAR(plan.recompute_per_million, RowOf(plan, 8192).prefill_s / 8192 * 1e6 * 0.001, 1e-9);
  EXPECT_NEAR(plan.tiers[0].break_even_hits_day * plan.recompute_per_million, 262.144 / (365.0 / 12), 1e-6);
}

TEST_F(PricesTest, WhatIsMissingIsNamed) {
  EXPECT_THAT(Read(R"({"gpu_hour": 2, "dram_gb_month": 1})").status().message(), HasSubstr("'ssd_gb_month'"));
  EXPECT_THAT(Read(R"({"gpu_hour": -2})").status().message(), HasSubstr("'gpu_hour'"));
  EXPECT_THAT(Read("prices").status().message(), HasSubstr("'gpu_hour'"));
  EXPECT_EQ(ReadPrices("/no/such/prices.json").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace stem::planner
