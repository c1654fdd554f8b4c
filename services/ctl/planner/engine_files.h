// The data files of engines/, compiled in: topics.json and one for each engine.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem::planner {

// vllm, sglang, tensorrt-llm, llama.cpp, mlc-llm, ollama, tgi.
std::vector<std::string> EngineNames();

// Errors: InvalidArgument lists the names.
absl::StatusOr<nlohmann::json> EngineFile(absl::string_view engine);

// "topics" and "workloads".
nlohmann::json TopicsFile();

// "policies" that prune inside a sequence, and what was "measured" of them.
nlohmann::json RetentionFile();

}  // namespace stem::planner
