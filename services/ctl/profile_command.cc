// stemctl profile: measures an OpenAI-compatible endpoint; compares two records.
#include <cstdio>
#include <memory>
#include <random>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/ctl/commands.h"
#include "services/ctl/profile/compare.h"
#include "services/ctl/profile/measure.h"
#include "services/ctl/profile/plot.h"
#include "services/ctl/profile/verdict.h"
#include "services/ctl/progress.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

struct Arguments {
  std::string url, api_key_file, prompts, out, plot, json;
  std::vector<std::string> compare, notes;
  absl::Duration limit = absl::Minutes(2), whole_limit = absl::Minutes(30);
  profile::MeasureOptions options;
};

absl::StatusOr<int> RunCompare(const Arguments& arguments) {
  STEM_ASSIGN(const profile::Record before, profile::ReadRecord(arguments.compare[0]));
  STEM_ASSIGN(const profile::Record after, profile::ReadRecord(arguments.compare[1]));
  const profile::Comparison comparison = profile::Compare(before, after);
  if (arguments.json != "-") std::fputs(comparison.ToText().c_str(), stdout);
  STEM_TRY(WriteJson(arguments.json, comparison.ToJson().dump(2)));
  return kExitOk;
}

absl::StatusOr<std::string> ReadKey(const std::string& path) {
  if (path.empty()) return std::string();
  std::FILE* const file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  char key[4096];
  const size_t size = std::fread(key, 1, sizeof(key), file);
  std::fclose(file);
  std::string text(key, size);
  while (!text.empty() && static_cast<unsigned char>(text.back()) <= ' ') text.pop_back();
  return text;
}

absl::Status ReadOptions(Arguments* arguments) {
  profile::MeasureOptions& options = arguments->options;
  options.limit = arguments->limit;
  options.whole_limit = arguments->whole_limit;
  if (!arguments->prompts.empty()) {
    STEM_ASSIGN(options.prompts, profile::ReadPrompts(arguments->prompts));
  }
  for (const std::string& note : arguments->notes) {
    const size_t equals = note.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--note ", note, "; must be name=value, e.g. dtype=bf16"));
    }
    options.facts[note.substr(0, equals)] = note.substr(equals + 1);
  }
  options.seed = std::random_device()();
  if (!arguments->out.empty()) options.journal = absl::StrCat(arguments->out, ".part");
  return absl::OkStatus();
}

absl::StatusOr<int> RunProfile(Arguments* arguments) {
  if (!arguments->compare.empty()) return RunCompare(*arguments);
  if (arguments->url.empty()) {
    return absl::InvalidArgumentError("give an endpoint's URL, e.g. http://127.0.0.1:8000, or --compare A.json B.json");
  }
  STEM_TRY(ReadOptions(arguments));
  STEM_ASSIGN(const std::string key, ReadKey(arguments->api_key_file));
  STEM_ASSIGN(const profile::Endpoint endpoint, profile::Endpoint::Parse(arguments->url, key, arguments->limit));
  Progress progress(stderr);
  const absl::Time begun = absl::Now();
  absl::Time shown;
  arguments->options.on_request = [&](uint64_t done, uint64_t total) {
    if (absl::Now() - shown < progress.interval()) return;
    shown = absl::Now();
    progress.Show({.requests = done, .requests_total = total, .elapsed = shown - begun, .of_blocks = false});
  };
  STEM_ASSIGN(const profile::Record record, profile::Measure(endpoint, arguments->options));
  progress.End();
  if (arguments->json != "-") std::fputs(profile::RecordText(record).c_str(), stdout);
  nlohmann::json json = record.ToJson();
  for (const profile::Finding& finding : profile::VerdictOf(record)) json["verdict"].push_back({{"word", finding.word}, {"text", finding.text}});
  const std::string text = json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
  STEM_TRY(WriteJson(arguments->out, text));
  STEM_TRY(WriteJson(arguments->json, text));
  STEM_TRY(WriteJson(arguments->plot, profile::PlotSvg(record)));
  return record.whole ? kExitOk : kExitFailed;
}

}  // namespace

void AddProfileCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  profile::MeasureOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("profile", "measures an OpenAI-compatible endpoint: first token, speed, what its prefix cache brings");
  command.add_option("url", arguments->url, "of the endpoint, e.g. http://127.0.0.1:8000");
  command.add_option("--compare", arguments->compare, "two records: what changed, and whether it is more than noise")->expected(2);
  command.add_option("--model", options.model, "default: the first that the endpoint lists");
  command.add_option("--api", options.api, "completions or chat; default: what the endpoint has");
  command.add_option("--api-key-file", arguments->api_key_file, "file with the endpoint's key");
  command.add_option("--metrics", options.metrics_url, "path of the engine's metrics; default: /metrics");
  command.add_option("--prompts", arguments->prompts, "JSON lines of your own: {\"prompt\": ...} or {\"messages\": ...}, \"max_tokens\"");
  command.add_option("--short", options.short_tokens, "tokens of short prompts, about")->capture_default_str();
  command.add_option("--average", options.average_tokens, "of average ones")->capture_default_str();
  command.add_option("--longest", options.longest_tokens, "of the longest ones")->capture_default_str();
  command.add_option("--rounds", options.rounds, "prompts of each length, each cold and warm")->capture_default_str();
  command.add_option("--turns", options.turns, "of a conversation")->capture_default_str();
  command.add_option("--concurrency", options.concurrency, "requests at once")->capture_default_str();
  command.add_option("--output", options.output_tokens, "tokens generated for each")->capture_default_str();
  AddDurationOption(command, "--timeout", arguments->limit, {absl::Milliseconds(100), absl::Hours(1)}, "of one request");
  AddDurationOption(command, "--max-time", arguments->whole_limit, {absl::Seconds(1), absl::Hours(1)}, "of everything");
  command.add_option("--note", arguments->notes, "name=value for the record: what an endpoint does not tell, e.g. dtype=fp8");
  command.add_option("--out", arguments->out, "write the record; interrupted, the same command goes on where it was");
  command.add_option("--plot", arguments->plot, "write a picture (.svg)");
  command.add_option("--json", arguments->json, "write the record or comparison as JSON; - = standard output, instead of the page");
  command.callback([arguments, run] { *run = [arguments] { return RunProfile(arguments.get()); }; });
}

}  // namespace stem
