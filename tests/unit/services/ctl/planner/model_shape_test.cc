#include "services/ctl/planner/model_shape.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/model_table.h"

namespace stem::planner {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

Json Plain() {
  return {{"model_type", "llama"},       {"num_hidden_layers", 2},    {"hidden_size", 64},
          {"num_attention_heads", 4},    {"num_key_value_heads", 2},  {"intermediate_size", 96},
          {"vocab_size", 1000},          {"torch_dtype", "bfloat16"}, {"max_position_embeddings", 4096},
          {"tie_word_embeddings", false}};
}

std::string ErrorOf(const Json& config) {
  const absl::StatusOr<ModelShape> shape = ParseModel(config, "m");
  EXPECT_EQ(shape.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(shape.status().message());
}

struct Published {
  const char* name;
  double billions;
  double active_billions;  // 0 = dense
};

// Sizes that the models' publishers state (names, papers, cards); counted from the shapes to within 2 %.
TEST(ModelShapeTest, CountedWeightsAgreeWithWhatIsPublished) {
  constexpr Published kPublished[] = {{"llama-2-7b", 6.74, 0},
                                      {"llama-2-13b", 13.02, 0},
                                      {"llama-2-70b", 68.98, 0},
                                      {"llama-3.1-8b", 8.03, 0},
                                      {"llama-3.1-70b", 70.55, 0},
                                      {"llama-3.1-405b", 405.85, 0},
                                      {"mistral-7b-v0.1", 7.24, 0},
                                      {"mixtral-8x7b", 46.7, 12.9},
                                      {"mixtral-8x22b", 140.6, 39.1},
                                      {"qwen2.5-7b", 7.61, 0},
                                      {"qwen2.5-32b", 32.5, 0},
                                      {"qwen2.5-72b", 72.7, 0},
                                      {"qwen3-8b", 8.19, 0},
                                      {"qwen3-32b", 32.8, 0},
                                      {"qwen3-30b-a3b", 30.5, 3.3},
                                      {"qwen3-235b-a22b", 235, 22},
                                      {"qwen3-coder-480b", 480, 35},
                                      {"gemma-2-9b", 9.24, 0},
                                      {"gemma-2-27b", 27.2, 0},
                                      {"gemma-3-27b", 27.0, 0},
                                      {"phi-4", 14.7, 0},
                                      {"deepseek-v2", 236, 21},
                                      {"deepseek-v2-lite", 15.7, 0},
                                      {"deepseek-v3", 671, 37},
                                      {"kimi-k2", 1026, 32},
                                      {"gpt-oss-120b", 116.8, 0},
                                      {"gpt-oss-20b", 20.9, 0},
                                      {"falcon-7b", 7.0, 0},
                                      {"falcon-40b", 41.3, 0},
                                      {"llama-4-scout", 108, 17},
                                      {"llama-4-maverick", 400, 17},
                                      {"nemotron-3-nano-30b", 31.6, 0},
                                      {"qwen3.5-27b", 27, 0},
                                      {"qwen3.5-397b-a17b", 397, 17},
                                      {"glm-4.7", 355, 32}};
  for (const Published& model : kPublished) {
    const absl::StatusOr<ModelShape> shape = FindModel(model.name);
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_NEAR(static_cast<double>(shape->parameters) / 1e9, model.billions, model.billions * 0.02) << model.name;
    if (model.active_billions == 0) continue;
    EXPECT_NEAR(static_cast<double>(shape->active) / 1e9, model.active_billions, model.active_billions * 0.06)
        << model.name;
  }
}

TEST(ModelShapeTest, EveryModelOfTheTableIsRead) {
  for (const std::string& name : ModelNames()) {
    const absl::StatusOr<ModelShape> shape = FindModel(name);
    ASSERT_TRUE(shape.ok()) << name << ": " << shape.status();
    uint32_t layers = 0;
    for (const LayerGroup& group : shape->groups) layers += group.layers;
    EXPECT_EQ(layers, shape->layers) << name;
  }
  EXPECT_THAT(FindModel("gpt-5").status().message(), HasSubstr("llama-3.1-8b"));
}

TEST(ModelShapeTest, WeightsDtypeComesFromTheConfig) {
  EXPECT_EQ(FindModel("deepseek-v3")->weights, "fp8");
  EXPECT_EQ(FindModel("gpt-oss-120b")->weights, "mxfp4");
  EXPECT_EQ(FindModel("llama-2-7b")->weights, "fp16");
  Json config = Plain();
  config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4}};
  EXPECT_EQ(ParseModel(config, "m")->weights, "int4");
}

TEST(ModelShapeTest, NestedTextConfigIsFound) {
  Json config = {{"model_type", "gemma3"}, {"text_config", Plain()}, {"vision_config", {{"hidden_size", 1}}}};
  const absl::StatusOr<ModelShape> shape = ParseModel(config, "m");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->hidden, 64u);
}

TEST(ModelShapeTest, SharedLayersCacheNothing) {
  Json config = Plain();
  config["num_kv_shared_layers"] = 1;
  const absl::StatusOr<ModelShape> shape = ParseModel(config, "m");
  ASSERT_TRUE(shape.ok()) << shape.status();
  ASSERT_EQ(shape->groups.size(), 2u);
  EXPECT_EQ(shape->groups[1].kind, LayerKind::kNone);
}

TEST(ModelShapeTest, NothingCachedIsNothingToPlan) {
  Json config = Plain();
  config["num_kv_shared_layers"] = 2;
  EXPECT_THAT(ErrorOf(config), HasSubstr("no layer of this config caches anything"));
}

// transformers' MistralConfig: without the field a window of 4,096; with null none.
TEST(ModelShapeTest, MistralsWindowIsTheTypesDefault) {
  Json config = Plain();
  config["model_type"] = "mistral";
  config["max_position_embeddings"] = 32768;
  EXPECT_EQ(ParseModel(config, "m")->groups.front().window, 4096u);
  EXPECT_THAT(ParseModel(config, "m")->assumed, Contains(HasSubstr("4096, the type's default")));
  config["sliding_window"] = nullptr;
  EXPECT_EQ(ParseModel(config, "m")->groups.front().kind, LayerKind::kFull);
  EXPECT_EQ(FindModel("mistral-7b-v0.3")->groups.front().kind, LayerKind::kFull);
}

TEST(ModelShapeTest, EveryEntryNamesItsSource) {
  for (const std::string& name : ModelNames()) EXPECT_FALSE(FindModel(name)->source.empty()) << name;
}

TEST(ModelShapeTest, UnknownArchitectureIsReadAndSaid) {
  Json config = Plain();
  EXPECT_THAT(ParseModel(config, "m")->assumed, IsEmpty());
  config["model_type"] = "brandnew";
  config.erase("num_key_value_heads");
  config.erase("torch_dtype");
  const absl::StatusOr<ModelShape> shape = ParseModel(config, "m");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_THAT(shape->assumed, Contains(HasSubstr("'brandnew' is not known")));
  EXPECT_THAT(shape->assumed, Contains(HasSubstr("num_key_value_heads")));
  EXPECT_THAT(shape->assumed, Contains(HasSubstr("taken as bf16")));
}

TEST(ModelShapeTest, MissingAndWrongFieldsAreNamed) {
  for (const char* field :
       {"num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"}) {
    Json config = Plain();
    config.erase(field);
    EXPECT_THAT(ErrorOf(config), HasSubstr(std::string("no '") + field + "'"));
    for (const Json& wrong : {Json(-1), Json(0), Json("8"), Json(1.5), Json(1ull << 63)}) {
      config[field] = wrong;
      EXPECT_THAT(ErrorOf(config), HasSubstr(std::string("'") + field + "' is")) << wrong;
    }
  }
}

TEST(ModelShapeTest, WhatIsNotAModelsConfigIsRefused) {
  EXPECT_THAT(ErrorOf(Json::array()), HasSubstr("not a JSON object"));
  EXPECT_THAT(ErrorOf(Json::object()), HasSubstr("neither 'model_type'"));
  EXPECT_THAT(ErrorOf({{"version", 1}, {"name", "package"}}), HasSubstr("not a model's config"));
  EXPECT_EQ(ReadModel("/no/such/config.json").status().code(), absl::StatusCode::kNotFound);
}

TEST(ModelShapeTest, WhatWouldMakeSizesWrongIsRefused) {
  Json config = Plain();
  config["compress_ratios"] = {4, 128};
  EXPECT_THAT(ErrorOf(config), HasSubstr("compress_ratios"));
  config = Plain();
  config["layer_types"] = {"full_attention", "telepathy"};
  EXPECT_THAT(ErrorOf(config), HasSubstr("telepathy"));
  config["layer_types"] = {"full_attention"};
  EXPECT_THAT(ErrorOf(config), HasSubstr("num_hidden_layers = 2"));
  config = Plain();
  config["num_key_value_heads"] = 3;
  EXPECT_THAT(ErrorOf(config), HasSubstr("do not divide"));
}

}  // namespace
}  // namespace stem::planner
