#include "services/ctl/plan_trace.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/model_table.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr double kMonthSeconds = 365.0 / 12 * 86400;

// Three prompts of two blocks, 512 tokens each, a second apart: A, B, A. llama-3-8b takes 512 x 128 KiB = 64 MiB a block.
class PlanTraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / "stem-plan-XXXXXX").string();
    const int fd = ::mkstemp(path_.data());
    ASSERT_GE(fd, 0);
    ::close(fd);
    Write({{1, 2}, {3, 4}, {1, 2}});
    options_.kv = *planner::ParseKvDtype("bf16");
    options_.gpu = *planner::FindGpu("h100");
  }
  void TearDown() override { std::filesystem::remove(path_); }

  void Write(const std::vector<std::vector<int>>& requests) {
    std::ofstream out(path_);
    for (size_t i = 0; i < requests.size(); ++i) {
      out << nlohmann::json{{"timestamp", 1000 * i}, {"input_length", 1024}, {"output_length", 1}, {"hash_ids", requests[i]}} << "\n";
    }
  }

  absl::StatusOr<PlanTrace> Trace(double goal = 0) {
    const absl::StatusOr<planner::Plan> plan = planner::MakePlan(*planner::FindModel("llama-3-8b"), options_);
    if (!plan.ok()) return plan.status();
    absl::StatusOr<PlanTrace> trace = TracePlan(*plan, {.trace = path_, .goal_hit_rate = goal}, nullptr);
    prompt_s_ = plan->roofline() ? plan->roofline()->PrefillSeconds(1024) : 0;
    return trace;
  }

  std::string path_;
  planner::PlanOptions options_;
  double prompt_s_ = 0;
};

// The third prompt is the first again: 1,024 of 3,072 tokens, and as much of the work.
TEST_F(PlanTraceTest, TiersHitWhatTheyHold) {
  options_.dram_bytes = 256 << 20;
  const absl::StatusOr<PlanTrace> trace = Trace();
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->block_bytes, 64u << 20);
  EXPECT_EQ(trace->tokens, 3072u);
  EXPECT_DOUBLE_EQ(trace->asked->token_hit_rate, 1.0 / 3);
  EXPECT_DOUBLE_EQ(trace->asked->prefill_saved, 1.0 / 3);
  EXPECT_EQ(trace->curve.back().dram_bytes, 256u << 20);
  EXPECT_DOUBLE_EQ(trace->curve.back().token_hit_rate, 1.0 / 3);
  EXPECT_NEAR(trace->prefill_s, 3 * prompt_s_, 1e-9);
  EXPECT_FALSE(trace->pays_bytes.has_value());
  EXPECT_THAT(trace->ToText(), HasSubstr("at the sizes asked for: 0.333 of prompt tokens"));
}

TEST_F(PlanTraceTest, TiersTooSmallHitNothing) {
  options_.dram_bytes = 64 << 20;
  const absl::StatusOr<PlanTrace> trace = Trace();
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_LT(trace->asked->token_hit_rate, 1.0 / 3);
}

// A prompt's prefill saved every 2 s, all month, at 3,600 an hour = 1 a second; four blocks at 1 a GB are 0.268.
TEST_F(PlanTraceTest, AGigabytePaysWhileItSavesMoreThanItCosts) {
  options_.dram_bytes = 256 << 20;
  options_.prices = planner::Prices{3600, 1, 0};
  const absl::StatusOr<PlanTrace> cheap = Trace();
  ASSERT_TRUE(cheap.ok()) << cheap.status();
  EXPECT_NEAR(cheap->asked->saved_month, prompt_s_ * kMonthSeconds / 2, 1e-6);
  EXPECT_NEAR(cheap->asked->cost_month, 0.268435456, 1e-9);
  EXPECT_GT(cheap->pays_bytes.value_or(0), 0u);
  ASSERT_TRUE(cheap->mix.has_value());
  EXPECT_GT(cheap->mix->net_month(), 0);

  options_.prices = planner::Prices{1e-9, 1e6, 1e6};
  const absl::StatusOr<PlanTrace> dear = Trace();
  ASSERT_TRUE(dear.ok()) << dear.status();
  EXPECT_EQ(dear->pays_bytes, 0u);
  EXPECT_FALSE(dear->mix.has_value());
  EXPECT_THAT(dear->ToText(), HasSubstr("no gigabyte of DRAM pays"));
}

TEST_F(PlanTraceTest, GoalIsReachedAtLeastCostOrSaidToBeMissed) {
  options_.prices = planner::Prices{2, 2, 0.1};
  const absl::StatusOr<PlanTrace> reached = Trace(0.3);
  ASSERT_TRUE(reached.ok()) << reached.status();
  ASSERT_TRUE(reached->mix.has_value());
  EXPECT_GE(reached->mix->token_hit_rate, 0.3);
  EXPECT_GT(reached->mix->ssd_bytes, reached->mix->dram_bytes);  // a twentieth of the price
  const absl::StatusOr<PlanTrace> missed = Trace(0.9);
  ASSERT_TRUE(missed.ok()) << missed.status();
  EXPECT_TRUE(missed->goal_missed);
  EXPECT_THAT(missed->ToText(), HasSubstr("no mix reaches the goal"));
}

TEST_F(PlanTraceTest, WhatCannotBeAnsweredIsRefused) {
  EXPECT_THAT(Trace(0.3).status().message(), HasSubstr("--prices"));
  EXPECT_THAT(Trace(1.5).status().message(), HasSubstr("--goal-hit-rate 1.5"));
  Write({});
  EXPECT_EQ(Trace().status().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove(path_);
  EXPECT_EQ(Trace().status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace stem
