#include "services/ctl/profile/discovery.h"

#include <map>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/ctl/profile/engine_counters.h"
#include "services/ctl/profile/prompts.h"

namespace stem::profile {
namespace {

constexpr double kCalibrationWords = 64;

absl::Status ReadModels(const Endpoint& endpoint, const DiscoveryOptions& options, Discovery* found) {
  found->model = options.model;
  const absl::StatusOr<std::string> page = endpoint.Get(absl::StrCat(endpoint.prefix(), "/models"));
  if (!page.ok()) {
    if (!options.model.empty()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(page.status().message(), "; give --model when the endpoint lists none"));
  }
  const nlohmann::json json = nlohmann::json::parse(*page, nullptr, /*allow_exceptions=*/false);
  const bool listed = json.is_object() && json.contains("data") && json["data"].is_array() && !json["data"].empty();
  if (!listed) {
    if (!options.model.empty()) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat(endpoint.url(), " lists no models: ", page->substr(0, 80), "; give --model"));
  }
  for (const nlohmann::json& model : json["data"]) {
    if (!model.is_object() || !model.contains("id") || !model["id"].is_string()) continue;
    if (!found->model.empty() && model["id"] != found->model) continue;
    found->model = model["id"];
    if (model.contains("max_model_len") && model["max_model_len"].is_number_unsigned()) found->context_max = model["max_model_len"];
    if (model.contains("owned_by") && model["owned_by"].is_string()) found->engine = model["owned_by"];
    return absl::OkStatus();
  }
  if (!options.model.empty()) found->notes.push_back(absl::StrCat("the endpoint does not list a model '", options.model, "'"));
  return found->model.empty() ? absl::UnavailableError(absl::StrCat(endpoint.url(), " lists no model's id")) : absl::OkStatus();
}

void ReadVersion(const Endpoint& endpoint, Discovery* found) {
  for (const char* path : {"/version", "/get_server_info", "/info"}) {
    const absl::StatusOr<std::string> page = endpoint.Get(path);
    if (!page.ok()) continue;
    const nlohmann::json json = nlohmann::json::parse(*page, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("version") || !json["version"].is_string()) continue;
    found->version = json["version"];
    return;
  }
}

void FindMetrics(const Endpoint& endpoint, const DiscoveryOptions& options, Discovery* found) {
  const std::string path = options.metrics_path.empty() ? "/metrics" : options.metrics_path;
  const absl::StatusOr<std::string> page = endpoint.Get(path);
  if (!page.ok()) {
    found->notes.push_back(absl::StrCat("the engine's own counters: not seen (", page.status().message(), ")"));
    return;
  }
  if (!CountersOf(ReadSeries(*page)).any()) {
    found->notes.push_back(absl::StrCat("the engine's own counters: ", path, " has none that are known"));
    return;
  }
  found->metrics_path = path;
}

nlohmann::json BodyOf(const Discovery& found, const std::string& text) {
  nlohmann::json body = {{"model", found.model}, {"max_tokens", 2}, {"temperature", 0}};
  if (found.api == "chat") {
    body["messages"] = {{{"role", "user"}, {"content", text}}};
  } else {
    body["prompt"] = text;
  }
  return body;
}

// Tries the interfaces; what each refuses is kept for the error.
absl::Status FindApi(const Endpoint& endpoint, const DiscoveryOptions& options, Discovery* found) {
  std::string refused;
  for (const char* api : {"completions", "chat"}) {
    if (!options.api.empty() && options.api != api) continue;
    found->api = api;
    const std::string path = found->api == "chat" ? "/chat/completions" : "/completions";
    const std::string prompt = MakePrompt(0x57ee, kCalibrationWords, 1);
    const Completion answer = endpoint.Stream(path, BodyOf(*found, prompt), {});
    if (!answer.ok()) {
      absl::StrAppend(&refused, refused.empty() ? "" : "; ", path, ": ", answer.error);
      continue;
    }
    if (answer.prompt_tokens > 0) found->tokens_per_word = static_cast<double>(answer.prompt_tokens) / kCalibrationWords;
    if (answer.prompt_tokens == 0) found->notes.emplace_back("the endpoint tells no usage: tokens are counted as the pieces that came");
    nlohmann::json body = BodyOf(*found, prompt);
    body["ignore_eos"] = true;
    found->ignores_eos = endpoint.Stream(path, body, {}).ok();
    body["logprobs"] = 1;
    found->has_logprobs = found->api == "completions" && !endpoint.Stream(path, body, {}).logprobs.empty();
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(endpoint.url(), " does not complete: ", refused));
}

}  // namespace

absl::StatusOr<Discovery> Discover(const Endpoint& endpoint, const DiscoveryOptions& options) {
  Discovery found;
  STEM_TRY(ReadModels(endpoint, options, &found));
  STEM_TRY(FindApi(endpoint, options, &found));
  ReadVersion(endpoint, &found);
  FindMetrics(endpoint, options, &found);
  if (found.engine.empty()) found.engine = "unknown";
  return found;
}

}  // namespace stem::profile
