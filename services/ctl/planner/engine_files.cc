#include "services/ctl/planner/engine_files.h"

#include <iterator>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/ctl/planner/engine_texts.h"

namespace stem::planner {
namespace {

struct File {
  const char* name;
  const char* text;
};

constexpr File kEngines[] = {{"vllm", kVllmText},           {"sglang", kSglangText}, {"tensorrt-llm", kTensorrtLlmText},
                             {"llama.cpp", kLlamaCppText},  {"mlc-llm", kMlcLlmText}, {"ollama", kOllamaText},
                             {"tgi", kTgiText}};

}  // namespace

std::vector<std::string> EngineNames() {
  std::vector<std::string> names;
  for (const File& file : kEngines) names.emplace_back(file.name);
  return names;
}

absl::StatusOr<nlohmann::json> EngineFile(absl::string_view engine) {
  for (const File& file : kEngines) {
    if (engine == file.name) return nlohmann::json::parse(file.text);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no engine '", engine, "'; use one of ", absl::StrJoin(EngineNames(), ", ")));
}

nlohmann::json TopicsFile() { return nlohmann::json::parse(kTopicsText); }

nlohmann::json RetentionFile() { return nlohmann::json::parse(kRetentionText); }

}  // namespace stem::planner
