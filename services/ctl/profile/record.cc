#include "services/ctl/profile/record.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace stem::profile {
namespace {

EngineCounters CountersOfJson(const nlohmann::json& json) {
  EngineCounters counters;
  const auto read = [&](const char* name, std::optional<double>* value) {
    if (json.contains(name) && json[name].is_number()) *value = json[name].get<double>();
  };
  read("prefix_cache_queries_tokens", &counters.queries_tokens);
  read("prefix_cache_hits_tokens", &counters.hits_tokens);
  read("external_queries_tokens", &counters.external_queries_tokens);
  read("external_hits_tokens", &counters.external_hits_tokens);
  read("preemptions", &counters.preemptions);
  read("kv_usage", &counters.usage);
  read("waiting", &counters.waiting);
  return counters;
}

// Nearest rank.
double Percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

template <typename Value>
std::vector<double> Collect(const Record& record, const std::string& phase, bool warm, Value value) {
  std::vector<double> values;
  for (const Request& request : record.requests) {
    if (request.phase == phase && request.warm == warm && request.answer.ok()) value(request.answer, &values);
  }
  return values;
}

nlohmann::json SpreadJson(const std::vector<double>& values) {
  const Spread spread = SpreadOf(values);
  return {{"count", spread.count}, {"p50", spread.p50}, {"p95", spread.p95}, {"p99", spread.p99}};
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {values.size(), Percentile(values, 0.5), Percentile(values, 0.95), Percentile(values, 0.99)};
}

std::vector<double> FirstTokenSeconds(const Record& record, const std::string& phase, bool warm) {
  return Collect(record, phase, warm, [](const Completion& answer, std::vector<double>* values) {
    if (answer.pieces > 0) values->push_back(absl::ToDoubleSeconds(answer.timing.first));
  });
}

std::vector<double> TokensPerSecond(const Record& record, const std::string& phase, bool warm) {
  return Collect(record, phase, warm, [](const Completion& answer, std::vector<double>* values) {
    const double decode_s = absl::ToDoubleSeconds(answer.timing.total - answer.timing.first);
    if (answer.completion_tokens > 1 && decode_s > 0) values->push_back(static_cast<double>(answer.completion_tokens - 1) / decode_s);
  });
}

std::vector<double> GapSeconds(const Record& record, const std::string& phase, bool warm) {
  return Collect(record, phase, warm, [](const Completion& answer, std::vector<double>* values) {
    values->insert(values->end(), answer.timing.gaps_s.begin(), answer.timing.gaps_s.end());
  });
}

nlohmann::json ToJson(const Request& request) {
  const Completion& answer = request.answer;
  nlohmann::json json = {{"phase", request.phase}, {"warm", request.warm}, {"number", request.number},
                         {"status", answer.http_status}, {"first_token_s", absl::ToDoubleSeconds(answer.timing.first)},
                         {"total_s", absl::ToDoubleSeconds(answer.timing.total)}, {"gaps_s", answer.timing.gaps_s},
                         {"prompt_tokens", answer.prompt_tokens}, {"cached_tokens", answer.cached_tokens},
                         {"completion_tokens", answer.completion_tokens}, {"pieces", answer.pieces}};
  if (!answer.ok()) json["error"] = answer.error;
  if (!answer.oddities.empty()) json["oddities"] = answer.oddities;
  if (request.phase == "turns") json["text"] = answer.text;
  if (request.phase != "fixed") return json;
  json["text"] = answer.text;
  json["tokens"] = answer.tokens;
  json["logprobs"] = answer.logprobs;
  return json;
}

absl::StatusOr<Request> RequestOf(const nlohmann::json& json) {
  if (!json.is_object()) return absl::DataLossError("a request is no JSON object");
  try {  // nlohmann's conversions throw on wrong types; nothing of it leaves this function
    Request request;
    request.phase = json.at("phase").get<std::string>();
    request.warm = json.at("warm").get<bool>();
    request.number = json.at("number").get<uint32_t>();
    Completion& answer = request.answer;
    answer.http_status = json.at("status").get<int>();
    answer.error = json.value("error", "");
    answer.timing.first = absl::Seconds(json.at("first_token_s").get<double>());
    answer.timing.total = absl::Seconds(json.at("total_s").get<double>());
    answer.timing.gaps_s = json.value("gaps_s", std::vector<double>());
    answer.prompt_tokens = json.value("prompt_tokens", uint64_t{0});
    answer.cached_tokens = json.value("cached_tokens", uint64_t{0});
    answer.completion_tokens = json.value("completion_tokens", uint64_t{0});
    answer.pieces = json.value("pieces", uint64_t{0});
    answer.oddities = json.value("oddities", std::vector<std::string>());
    answer.text = json.value("text", "");
    answer.tokens = json.value("tokens", std::vector<std::string>());
    answer.logprobs = json.value("logprobs", std::vector<double>());
    return request;
  } catch (const nlohmann::json::exception& wrong) {
    return absl::DataLossError(absl::StrCat("a request: ", wrong.what()));
  }
}

nlohmann::json Record::ToJson() const {
  nlohmann::json json = {{"stemctl_profile", kRecordVersion}, {"url", url}, {"model", model}, {"engine", engine}, {"version", version},
                         {"api", api}, {"date", date}, {"context_max", context_max}, {"facts", facts}, {"prompt_set", prompt_set},
                         {"options", options}, {"notes", notes}, {"whole", whole}, {"requests", nlohmann::json::array()}};
  if (memory.before_bytes > 0) {
    json["memory"] = {{"before_bytes", memory.before_bytes},
                      {"first_token_bytes", memory.first_token_bytes},
                      {"decode_bytes", memory.decode_bytes}};
  }
  for (const auto& [phase, counted] : counters) json["counters"][phase] = profile::ToJson(counted);
  std::map<std::pair<std::string, bool>, int> groups;
  for (const Request& request : requests) {
    json["requests"].push_back(profile::ToJson(request));
    groups[{request.phase, request.warm}]++;
  }
  for (const auto& [group, count] : groups) {
    const auto& [phase, warm] = group;
    if (phase == "malformed") continue;
    json["summary"].push_back({{"phase", phase}, {"warm", warm}, {"sent", count},
                               {"first_token_s", SpreadJson(FirstTokenSeconds(*this, phase, warm))},
                               {"tokens_per_s", SpreadJson(TokensPerSecond(*this, phase, warm))},
                               {"gap_s", SpreadJson(GapSeconds(*this, phase, warm))}});
  }
  return json;
}

absl::StatusOr<Record> ReadRecord(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("stemctl_profile", nlohmann::json()) != kRecordVersion) {
    return absl::DataLossError(absl::StrCat(path, " is no record of stemctl profile, version ", kRecordVersion));
  }
  Record record;
  try {
    for (const auto& [name, target] : {std::pair<const char*, std::string*>{"url", &record.url}, {"model", &record.model},
                                       {"engine", &record.engine}, {"version", &record.version}, {"api", &record.api},
                                       {"date", &record.date}, {"prompt_set", &record.prompt_set}}) {
      *target = json.value(name, "");
    }
    record.context_max = json.value("context_max", uint64_t{0});
    record.facts = json.value("facts", record.facts);
    record.options = json.value("options", nlohmann::json::object());
    record.notes = json.value("notes", record.notes);
    record.whole = json.value("whole", true);
    for (const nlohmann::json& each : json.value("requests", nlohmann::json::array())) {
      STEM_ASSIGN(Request request, RequestOf(each));
      record.requests.push_back(std::move(request));
    }
    const nlohmann::json counters = json.value("counters", nlohmann::json::object());
    for (const auto& [phase, counted] : counters.items()) record.counters[phase] = CountersOfJson(counted);
    if (json.contains("memory")) {
      record.memory.before_bytes = json["memory"].value("before_bytes", uint64_t{0});
      record.memory.first_token_bytes = json["memory"].value("first_token_bytes", uint64_t{0});
      record.memory.decode_bytes = json["memory"].value("decode_bytes", uint64_t{0});
    }
  } catch (const nlohmann::json::exception& wrong) {
    return absl::DataLossError(absl::StrCat(path, ": ", wrong.what()));
  }
  return record;
}

}  // namespace stem::profile
