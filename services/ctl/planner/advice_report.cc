#include "services/ctl/planner/advice_report.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "services/ctl/planner/engine_files.h"
#include "services/ctl/planner/figures.h"

namespace stem::planner {
namespace {

constexpr size_t kLineChars = 110;

// Words in lines after a label of 12 characters.
std::string Paragraph(const char* label, const std::string& text) {
  std::string out = fmt::format("    {:<12}", label);
  size_t used = out.size(), at = 0;
  while (at < text.size()) {
    size_t end = text.find(' ', at);
    if (end == std::string::npos) end = text.size();
    if (used + (end - at) > kLineChars && used > 16) {
      out += "\n" + std::string(16, ' ');
      used = 16;
    }
    out += text.substr(at, end - at) + " ";
    used += end - at + 1;
    at = end + 1;
  }
  while (out.back() == ' ') out.pop_back();
  return out + "\n";
}

std::string Head(const Advice& advice) {
  const Plan& plan = advice.plan;
  std::string text = fmt::format("{} for {}: {}\n", advice.options.workload, plan.model.name, advice.workload_what);
  text += fmt::format("  prompts of {} tokens, at most {}; {} at a time; {} of tokens known already ({})\n",
                      Count(plan.typical_tokens), advice.figures.at("longest"), plan.options.concurrency,
                      advice.figures.at("hit"), advice.figures.at("hit_source"));
  text += fmt::format("  {}: TP {} x PP {}, {} KV\n",
                      plan.options.gpu ? fmt::format("{} x {}", plan.gpus(), plan.options.gpu->name)
                                       : advice.options.cpu ? std::string("CPU") : std::string("GPUs not told (--gpu)"),
                      plan.options.parallel.tensor, plan.options.parallel.pipeline, plan.options.kv.word);
  for (const std::string& note : advice.notes) text += fmt::format("  ! {}\n", note);
  return text;
}

std::string Indented(absl::string_view text) {
  absl::ConsumeSuffix(&text, "\n");
  return "  " + absl::StrReplaceAll(text, {{"\n", "\n  "}}) + "\n";
}

std::string EngineText(const EngineAdvice& engine) {
  std::string text = fmt::format("\n==== {} ({})\n{}", engine.title, engine.versions, Indented(engine.command));
  if (!engine.file_text.empty()) text += fmt::format("  # {}:\n{}", engine.file, Indented(engine.file_text));
  std::string topic;
  for (size_t i = 0; i < engine.settings.size(); ++i) {
    const Setting& setting = engine.settings[i];
    const bool first = setting.topic != topic;
    if (first) text += fmt::format("\n  {}\n", setting.title);
    topic = setting.topic;
    text += fmt::format("    {}{}{}   (default: {}; {})\n", setting.name, setting.value.empty() ? "" : " ", setting.value,
                        setting.otherwise, setting.source);
    text += Paragraph("check", setting.check);
    const bool last = i + 1 == engine.settings.size() || engine.settings[i + 1].topic != topic;
    if (!last) continue;
    text += Paragraph("why", setting.mechanism) + Paragraph("effect", setting.effect);
    text += Paragraph("risk", setting.risk) + Paragraph("fall back", setting.fall_back);
  }
  if (!engine.lacks.empty()) text += fmt::format("\n  {} has no setting for\n", engine.title);
  for (const Lack& lack : engine.lacks) text += Paragraph("-", absl::StrCat(lack.title, ": ", lack.nearest));
  for (const std::string& note : engine.notes) text += Paragraph("note", note);
  return text + fmt::format("  names and defaults: {}\n", engine.source);
}

std::string NodeText(const Advice& advice) {
  const nlohmann::json topics = TopicsFile();
  std::string text;
  for (const nlohmann::json& topic : topics["topics"]) {
    if (topic["topic"] != "node") continue;
    text = fmt::format("\n==== Stemcache, on each host\n  {}\n", advice.figures.at("node_command"));
    text += Paragraph("why", topic["mechanism"]) + Paragraph("effect", Filled(topic["effect"], advice.figures));
    text += Paragraph("risk", topic["risk"]) + Paragraph("check", topic["check"]) + Paragraph("fall back", topic["fall_back"]);
  }
  return text;
}

}  // namespace

std::string AdviceText(const Advice& advice, const std::vector<EngineAdvice>& engines) {
  std::string text = Head(advice);
  for (const EngineAdvice& engine : engines) text += EngineText(engine);
  if (advice.conditions.contains("tiers")) text += NodeText(advice);
  return text;
}

nlohmann::json AdviceJson(const Advice& advice, const std::vector<EngineAdvice>& engines) {
  nlohmann::json json = {{"workload", advice.options.workload},
                         {"model", advice.plan.model.name},
                         {"contexts", advice.plan.options.contexts},
                         {"requests", advice.plan.options.concurrency},
                         {"tensor_parallel", advice.plan.options.parallel.tensor},
                         {"pipeline_parallel", advice.plan.options.parallel.pipeline},
                         {"kv_dtype", advice.plan.options.kv.word},
                         {"notes", advice.notes},
                         {"engines", nlohmann::json::array()}};
  for (const EngineAdvice& engine : engines) {
    nlohmann::json entry = {{"engine", engine.engine}, {"versions", engine.versions}, {"source", engine.source},
                            {"command", engine.command}, {"settings", nlohmann::json::array()},
                            {"lacks", nlohmann::json::array()}, {"notes", engine.notes}};
    if (!engine.file_text.empty()) entry["files"][engine.file] = engine.file_text;
    for (const Setting& setting : engine.settings) {
      entry["settings"].push_back({{"topic", setting.topic}, {"name", setting.name}, {"value", setting.value},
                                   {"default", setting.otherwise}, {"source", setting.source}, {"effect", setting.effect},
                                   {"mechanism", setting.mechanism}, {"risk", setting.risk}, {"check", setting.check},
                                   {"fall_back", setting.fall_back}});
    }
    for (const Lack& lack : engine.lacks) entry["lacks"].push_back({{"topic", lack.topic}, {"nearest", lack.nearest}});
    json["engines"].push_back(entry);
  }
  if (advice.conditions.contains("tiers")) json["node_command"] = advice.figures.at("node_command");
  return json;
}

}  // namespace stem::planner
