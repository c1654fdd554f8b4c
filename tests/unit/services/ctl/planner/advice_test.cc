#include "services/ctl/planner/advice.h"

#include <algorithm>
#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/advice_report.h"
#include "services/ctl/planner/engine_advice.h"
#include "services/ctl/planner/engine_files.h"
#include "services/ctl/planner/model_table.h"
#include "services/ctl/planner/retention_advice.h"

namespace stem::planner {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr uint64_t kGiB = uint64_t{1} << 30;

AdviceOptions Options(const std::string& workload = "chat") {
  AdviceOptions options;
  options.workload = workload;
  options.plan.kv = *ParseKvDtype("bf16");
  options.plan.gpu = *FindGpu("h100");
  options.plan.concurrency = 0;
  return options;
}

Advice Make(const std::string& model, AdviceOptions options) {
  absl::StatusOr<Advice> advice = MakeAdvice(*FindModel(model), std::move(options));
  EXPECT_TRUE(advice.ok()) << advice.status();
  return *std::move(advice);
}

EngineAdvice Engine(const Advice& advice, const std::string& engine) {
  absl::StatusOr<EngineAdvice> result = AdviseEngine(advice, engine);
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

std::string ValueOf(const EngineAdvice& engine, const std::string& name) {
  for (const Setting& setting : engine.settings) {
    if (setting.name == name) return setting.value;
  }
  return "(not set)";
}

// Sentences, by their ends.
int64_t Sentences(const std::string& text) {
  int64_t ends = 0;
  for (size_t at = 0; at < text.size(); ++at) ends += text[at] == '.' && (at + 1 == text.size() || text[at + 1] == ' ') ? 1 : 0;
  return ends;
}

TEST(AdviceTest, EveryEngineAnswersEveryTopicForEveryWorkload) {
  for (const std::string& workload : WorkloadNames()) {
    AdviceOptions options = Options(workload);
    options.plan.dram_bytes = 256 * kGiB;
    options.plan.ssd_bytes = 1024 * kGiB;
    const Advice advice = Make("llama-3.1-70b", options);
    for (const std::string& name : EngineNames()) {
      const EngineAdvice engine = Engine(advice, name);
      std::set<std::string> topics;
      for (const Setting& setting : engine.settings) {
        topics.insert(setting.topic);
        EXPECT_EQ(Sentences(setting.mechanism), 2) << setting.topic;
        for (const std::string& text : {setting.effect, setting.check, setting.fall_back, setting.risk, setting.source}) {
          EXPECT_FALSE(text.empty()) << name << " " << setting.name;
          EXPECT_THAT(text, Not(HasSubstr("{"))) << name << " " << setting.name;
        }
        EXPECT_THAT(setting.value.substr(0, 1) == "{" ? "" : setting.value, Not(HasSubstr("{"))) << name << " " << setting.name;
      }
      for (const Lack& lack : engine.lacks) topics.insert(lack.topic);
      if (name == "vllm") topics.insert("connector");  // on GPUs told in the notes
      for (const char* topic : {"context", "memory", "prefix_caching", "kv_dtype", "offload", "eviction", "chunked_prefill", "batch",
                                "parallelism", "connector", "metrics"}) {
        EXPECT_THAT(topics, Contains(topic)) << name << " for " << workload;
      }
      EXPECT_THAT(engine.command, Not(IsEmpty()));
    }
  }
}

// 70B in bf16 is 131 GiB: two H100 hold it but leave 2 x (72.7 - 65.7 - 2.4) = 9 GiB, and 32 x 4,096 tokens take 20 GiB even in fp8
// (160 KiB a token); four hold them as they are.
TEST(AdviceTest, FewestGpusThatHoldTheRequestsAreChosen) {
  const Advice advice = Make("llama-3.1-70b", Options());
  EXPECT_EQ(advice.plan.options.parallel.tensor, 4u);
  EXPECT_EQ(advice.plan.options.kv.word, "bf16");
  const EngineAdvice vllm = Engine(advice, "vllm");
  EXPECT_EQ(ValueOf(vllm, "--tensor-parallel-size"), "4");
  EXPECT_EQ(ValueOf(vllm, "--max-model-len"), "16384");
  EXPECT_EQ(ValueOf(vllm, "--kv-transfer-config"), "(not set)");
  AdviceOptions fixed = Options();
  fixed.tensor_given = true;
  fixed.plan.parallel.tensor = 8;
  EXPECT_EQ(Make("llama-3.1-70b", fixed).plan.options.parallel.tensor, 8u);
}

// 79 GiB x 0.92 - 15 GiB - 2.3 GiB leave 55 GiB: 110 requests of 4,096 tokens x 128 KiB, or 220 in fp8.
TEST(AdviceTest, HalfPrecisionIsTakenWhenOnlyItHoldsTheRequests) {
  AdviceOptions options = Options();
  options.plan.concurrency = 150;
  EXPECT_EQ(ValueOf(Engine(Make("llama-3.1-8b", options), "vllm"), "--kv-cache-dtype"), "fp8");
  EXPECT_EQ(ValueOf(Engine(Make("llama-3.1-8b", options), "llama.cpp"), "--cache-type-k"), "q8_0");
  options.kv_given = true;
  EXPECT_EQ(Make("llama-3.1-8b", options).plan.options.kv.word, "bf16");
  options.kv_given = false;
  options.plan.concurrency = 32;
  EXPECT_EQ(ValueOf(Engine(Make("llama-3.1-8b", options), "vllm"), "--kv-cache-dtype"), "auto");
}

TEST(AdviceTest, WhatAnEngineDoesNotHaveIsSaid) {
  AdviceOptions options = Options();
  options.kv_given = true;
  options.plan.kv = *ParseKvDtype("int4");
  const EngineAdvice sglang = Engine(Make("llama-3.1-8b", options), "sglang");
  EXPECT_EQ(ValueOf(sglang, "--kv-cache-dtype"), "(not set)");
  ASSERT_FALSE(sglang.lacks.empty());
  EXPECT_THAT(sglang.lacks.front().nearest, AllOf(HasSubstr("no int4"), HasSubstr("fp8 (fp8_e4m3)")));
}

TEST(AdviceTest, CpusGetTheConnectorAndTheirOwnWords) {
  AdviceOptions options = Options();
  options.plan.gpu.reset();
  options.cpu = true;
  options.plan.dram_bytes = kGiB;
  options.node = "unix:///tmp/n.sock";
  options.model = "it's mine";
  const EngineAdvice vllm = Engine(Make("qwen3-0.6b", options), "vllm");
  EXPECT_EQ(ValueOf(vllm, "--gpu-memory-utilization"), "(not set)");
  // 32 requests of 4,096 tokens x 28 layers x 2 x 8 x 128 x 2 bytes = 14 GiB, and a block: 15 GiB.
  EXPECT_EQ(ValueOf(vllm, "VLLM_CPU_KVCACHE_SPACE"), "15");
  EXPECT_THAT(vllm.command, AllOf(HasSubstr("vllm serve 'it'\\''s mine'"), HasSubstr("kv_load_failure_policy\":\"recompute"),
                                  HasSubstr("unix:///tmp/n.sock"), HasSubstr("VLLM_CPU_KVCACHE_SPACE=15 \\\n")));
}

TEST(AdviceTest, FilesAndOverridesAreWhole) {
  AdviceOptions options = Options();
  options.plan.dram_bytes = 64 * kGiB;
  const Advice advice = Make("llama-3.1-8b", options);
  const EngineAdvice trtllm = Engine(advice, "tensorrt-llm");
  EXPECT_THAT(trtllm.file_text, AllOf(HasSubstr("\nkv_cache_config:\n  free_gpu_memory_fraction: 0.9\n"), HasSubstr("max_seq_len: 16384\n"),
                                      HasSubstr("  host_cache_size: 68719476736\n")));
  EXPECT_THAT(Engine(advice, "mlc-llm").command, HasSubstr("--overrides 'context_window_size=16384;gpu_memory_utilization=0.85;"));
  EXPECT_THAT(Engine(advice, "ollama").command, HasSubstr("OLLAMA_CONTEXT_LENGTH=16384 \\\n"));
}

TEST(AdviceTest, GoalsThatAreMissedAreSaid) {
  AdviceOptions options = Options();
  options.ttft_goal_s = 1e-6;
  EXPECT_THAT(Make("llama-3.1-8b", options).notes, Contains(HasSubstr("is not met")));
  options.ttft_goal_s = 0;
  options.plan.concurrency = 100000;
  EXPECT_THAT(Make("llama-3.1-8b", options).notes, Contains(HasSubstr("do not fit at a time")));
  options.plan.concurrency = 32;
  EXPECT_THAT(Make("llama-3.1-8b", options).notes, IsEmpty());
}

TEST(AdviceTest, HitRatesOfATraceReplaceTheAssumption) {
  AdviceOptions options = Options();
  EXPECT_THAT(AdviceText(Make("llama-3.1-8b", options), {}), HasSubstr("50 % of tokens known already (assumed for chat"));
  options.hit_rate = 0.37;
  options.hit_source = "simulated on t.jsonl";
  EXPECT_THAT(AdviceText(Make("llama-3.1-8b", options), {}), HasSubstr("37 % of tokens known already (simulated on t.jsonl)"));
}

TEST(AdviceTest, WrongWordsAreNamed) {
  EXPECT_THAT(MakeAdvice(*FindModel("llama-3.1-8b"), Options("chess")).status().message(), AllOf(HasSubstr("chess"), HasSubstr("rag")));
  AdviceOptions both = Options();
  both.cpu = true;
  EXPECT_THAT(MakeAdvice(*FindModel("llama-3.1-8b"), both).status().message(), HasSubstr("exclude each other"));
  AdviceOptions negative = Options();
  negative.ttft_goal_s = -1;
  EXPECT_THAT(MakeAdvice(*FindModel("llama-3.1-8b"), negative).status().message(), HasSubstr("--goal-ttft"));
  EXPECT_THAT(AdviseEngine(Make("llama-3.1-8b", Options()), "vlm").status().message(), HasSubstr("vllm"));
}

// 8B: 128 KiB a token: 16,384 tokens are 2 GiB, 2,048 of them 256 MiB.
TEST(AdviceTest, PruningInsideASequenceIsPriced) {
  const Advice advice = Make("llama-3.1-8b", Options());
  const absl::StatusOr<RetentionAdvice> retention = AdviseRetention(advice.plan, 2048);
  ASSERT_TRUE(retention.ok()) << retention.status();
  ASSERT_EQ(retention->rows.size(), 4u);
  EXPECT_EQ(retention->rows[0].request_bytes, 2 * kGiB);
  EXPECT_EQ(retention->rows[0].error_mean, 0);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(retention->rows[i].request_bytes, kGiB / 4);
    EXPECT_DOUBLE_EQ(retention->rows[i].saved_percent, 87.5);
    EXPECT_EQ(retention->rows[i].measured_share, 0.125);  // 2,048 of 16,384
    EXPECT_GT(retention->rows[i].error_mean, 0);
  }
  EXPECT_THAT(AdviseRetention(advice.plan, 16384).status().message(), HasSubstr("less than the longest context, 16384"));
  EXPECT_THAT(AdviseRetention(advice.plan, 1).status().message(), HasSubstr("--keep-tokens 1"));
}

TEST(AdviceTest, NamesInBracesAreFilled) {
  EXPECT_EQ(Filled("a {x} {{y}} {z} {", {{"x", "1"}, {"y", "2"}}), "a 1 {y} {z} {");
}

}  // namespace
}  // namespace stem::planner
