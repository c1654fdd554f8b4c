#include "services/ctl/planner/engine_advice.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "services/ctl/planner/engine_files.h"

namespace stem::planner {
namespace {

// For a POSIX shell.
std::string Quoted(const std::string& text) {
  const bool plain = !text.empty() && text.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                                             "-_./:=,+@%") == std::string::npos;
  return plain ? text : absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

bool Applies(const nlohmann::json& setting, const std::set<std::string>& conditions) {
  for (const absl::string_view word : absl::StrSplit(setting.value("when", ""), ' ', absl::SkipEmpty())) {
    if (!conditions.contains(std::string(word))) return false;
  }
  return true;
}

// Of a setting whose word depends on the dtype: what the engine has.
std::string DtypesOf(const nlohmann::json& values) {
  std::string words;
  for (const auto& [word, name] : values.items()) {
    absl::StrAppend(&words, words.empty() ? "" : ", ", word, " (", name.get<std::string>(), ")");
  }
  return words;
}

Setting SettingOf(const Advice& advice, const nlohmann::json& topic, const nlohmann::json& data, const std::string& form) {
  Setting setting;
  setting.topic = data["topic"];
  setting.title = topic["title"];
  setting.name = data["name"];
  setting.value = Filled(data["value"], advice.figures);
  setting.form = data.value("form", form);
  setting.otherwise = data["default"];
  setting.source = data["source"];
  setting.mechanism = topic["mechanism"];
  setting.effect = Filled(topic["effect"], advice.figures);
  setting.risk = Filled(topic["risk"], advice.figures);
  setting.check = Filled(data.value("check", topic["check"].get<std::string>()), advice.figures);
  setting.fall_back = Filled(topic["fall_back"], advice.figures);
  return setting;
}

// "a.b" under "a:".
std::string Yaml(const std::vector<Setting>& settings) {
  std::string flat, nested, group;
  for (const Setting& setting : settings) {
    if (setting.form != "yaml") continue;
    const size_t dot = setting.name.find('.');
    if (dot == std::string::npos) {
      flat += absl::StrCat(setting.name, ": ", setting.value, "\n");
      continue;
    }
    if (group.empty()) {
      group = setting.name.substr(0, dot);
      nested = absl::StrCat(group, ":\n");
    }
    nested += absl::StrCat("  ", setting.name.substr(dot + 1), ": ", setting.value, "\n");
  }
  return flat + nested;
}

std::string CommandOf(const std::string& start, const std::vector<Setting>& settings) {
  std::string before, after, overrides;
  for (const Setting& setting : settings) {
    if (setting.form == "environment") before += absl::StrCat(setting.name, "=", Quoted(setting.value), " \\\n");
    if (setting.form == "flags") {
      after += absl::StrCat(" \\\n  ", setting.name, setting.value.empty() ? "" : absl::StrCat(" ", Quoted(setting.value)));
    }
    if (setting.form == "overrides") absl::StrAppend(&overrides, overrides.empty() ? "" : ";", setting.name, "=", setting.value);
  }
  if (!overrides.empty()) after += absl::StrCat(" \\\n  --overrides ", Quoted(overrides));
  return absl::StrCat(before, start, after);
}

}  // namespace

absl::StatusOr<EngineAdvice> AdviseEngine(const Advice& advice, const std::string& engine) {
  STEM_ASSIGN(const nlohmann::json data, EngineFile(engine));
  std::map<std::string, nlohmann::json> topics;
  const nlohmann::json file = TopicsFile();
  for (const nlohmann::json& topic : file["topics"]) topics[topic["topic"]] = topic;
  EngineAdvice result{data["engine"], data["title"], data["versions"], data["source"], "", data.value("file", ""), "", {}, {}, {}};
  std::map<std::string, std::string> figures = advice.figures;
  for (const nlohmann::json& setting : data["settings"]) {
    if (!Applies(setting, advice.conditions)) continue;
    const nlohmann::json& topic = topics.at(setting["topic"]);
    if (setting.contains("values")) {
      const std::string& word = advice.plan.options.kv.word;
      if (!setting["values"].contains(word)) {
        const bool own = word == "bf16" || word == "fp16";
        result.lacks.push_back({setting["topic"], topic["title"],
                                absl::StrCat(own ? "the model's own type needs no setting; " : absl::StrCat("no ", word, "; "),
                                             setting["name"].get<std::string>(), " has ", DtypesOf(setting["values"]))});
        continue;
      }
      figures["kv_dtype"] = setting["values"][word];
    }
    Setting filled = SettingOf(advice, topic, setting, data["form"]);
    filled.value = Filled(setting["value"], figures);
    result.settings.push_back(std::move(filled));
  }
  for (const nlohmann::json& lack : data["lacks"]) {
    result.lacks.push_back({lack["topic"], topics.at(lack["topic"])["title"], Filled(lack["nearest"], advice.figures)});
  }
  for (const nlohmann::json& note : data["notes"]) result.notes.push_back(note);
  result.file_text = Yaml(result.settings);
  result.command = CommandOf(Filled(data["start"], {{"model", Quoted(advice.options.model)}}), result.settings);
  return result;
}

}  // namespace stem::planner
