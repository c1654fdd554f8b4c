#include "services/ctl/profile/measure.h"

#include <algorithm>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/ctl/profile/discovery.h"
#include "services/ctl/profile/journal.h"
#include "services/ctl/profile/local_process.h"

namespace stem::profile {
namespace {

constexpr uint32_t kFailuresMax = 3;  // one after the other: the rest is not worth asking
constexpr uint64_t kContextMargin = 64;

class Run {
 public:
  Run(const Endpoint& endpoint, const MeasureOptions& options)
      : endpoint_(endpoint), options_(options), begun_(absl::Now()), seed_(options.seed) {}

  absl::StatusOr<Record> Measure();

 private:
  struct Length {
    const char* phase;
    uint64_t tokens;
  };

  std::vector<Length> Lengths() const;
  nlohmann::json BodyOf(const std::string& prompt, uint64_t max_tokens) const;
  nlohmann::json BodyOf(const UserPrompt& prompt) const;
  uint64_t PromptSeed(const std::string& phase, uint32_t number) const;
  std::string PromptOf(const Length& length, uint32_t number) const {
    return MakePrompt(PromptSeed(length.phase, number), static_cast<double>(length.tokens), probe_.tokens_per_word);
  }

  bool over() const { return gave_up_ || absl::Now() - begun_ > options_.whole_limit; }
  void Send(const std::string& phase, bool warm, uint32_t number, const nlohmann::json& body, const Moments& moments = {});
  void Keep(Request request);

  // A phase between two scrapes.
  template <typename Body>
  void Phase(const std::string& name, Body body) {
    if (over()) return;
    const EngineCounters before = Scrape();
    body();
    const EngineCounters counted = Between(before, Scrape());
    if (counted.any()) record_.counters.try_emplace(name, counted);
  }
  EngineCounters Scrape();

  void ColdAndWarm();
  void OwnPrompts();
  void Turns();
  void Concurrent();
  void Malformed();
  void Fixed();
  void SeeMemory(const Length& longest);

  const Endpoint& endpoint_;
  const MeasureOptions& options_;
  const absl::Time begun_;
  uint64_t seed_;
  Discovery probe_;
  Record record_;
  std::optional<Journal> journal_;
  std::optional<pid_t> process_;
  uint32_t failures_ = 0;  // one after the other
  uint64_t total_ = 0;
  bool gave_up_ = false;
};

std::vector<Run::Length> Run::Lengths() const {
  std::vector<Length> lengths = {{"short", options_.short_tokens}, {"average", options_.average_tokens}, {"longest", options_.longest_tokens}};
  if (probe_.context_max > 0) {
    const uint64_t room = probe_.context_max - std::min(probe_.context_max / 2, options_.output_tokens + kContextMargin);
    for (Length& length : lengths) length.tokens = std::min(length.tokens, room * 9 / 10);  // lengths are estimates
  }
  return lengths;
}

nlohmann::json Run::BodyOf(const std::string& prompt, uint64_t max_tokens) const {
  nlohmann::json body = {{"model", probe_.model}, {"max_tokens", max_tokens}, {"temperature", 0}};
  if (probe_.ignores_eos) body["ignore_eos"] = true;
  if (probe_.api == "chat") {
    body["messages"] = {{{"role", "user"}, {"content", prompt}}};
  } else {
    body["prompt"] = prompt;
  }
  return body;
}

nlohmann::json Run::BodyOf(const UserPrompt& prompt) const {
  nlohmann::json body = BodyOf(prompt.prompt, prompt.max_tokens > 0 ? prompt.max_tokens : options_.output_tokens);
  if (prompt.messages.is_null()) return body;
  body.erase("prompt");
  body["messages"] = prompt.messages;
  return body;
}

uint64_t Run::PromptSeed(const std::string& phase, uint32_t number) const {
  uint64_t seed = seed_;
  for (const char letter : phase) seed = seed * 1099511628211ULL + static_cast<unsigned char>(letter);
  return seed * 1000003 + number;
}

void Run::Keep(Request request) {
  if (journal_) journal_->Add(request);
  record_.requests.push_back(std::move(request));
  if (options_.on_request) options_.on_request(record_.requests.size(), total_);
}

void Run::Send(const std::string& phase, bool warm, uint32_t number, const nlohmann::json& body, const Moments& moments) {
  if (over()) return;
  if (journal_) {
    if (std::optional<Request> known = journal_->Take(phase, warm, number)) {
      record_.requests.push_back(*std::move(known));
      return;
    }
  }
  const bool chat = body.contains("messages");
  Request request{phase, warm, number, endpoint_.Stream(chat ? "/chat/completions" : "/completions", body, moments)};
  failures_ = request.answer.ok() ? 0 : failures_ + 1;
  if (failures_ >= kFailuresMax) {
    gave_up_ = true;
    record_.notes.push_back(absl::StrCat("gave up after ", failures_, " failures one after the other, the last: ", request.answer.error));
  }
  Keep(std::move(request));
}

EngineCounters Run::Scrape() {
  if (probe_.metrics_path.empty()) return {};
  const absl::StatusOr<std::string> page = endpoint_.Get(probe_.metrics_path);
  return page.ok() ? CountersOf(ReadSeries(*page)) : EngineCounters();
}

void Run::ColdAndWarm() {
  for (const Length& length : Lengths()) {
    Phase(absl::StrCat(length.phase, " cold"), [&] {
      for (uint32_t i = 0; i < options_.rounds; ++i) Send(length.phase, false, i, BodyOf(PromptOf(length, i), options_.output_tokens));
    });
    Phase(absl::StrCat(length.phase, " warm"), [&] {
      for (uint32_t i = 0; i < options_.rounds; ++i) Send(length.phase, true, i, BodyOf(PromptOf(length, i), options_.output_tokens));
    });
  }
}

void Run::OwnPrompts() {
  for (const bool warm : {false, true}) {
    Phase(warm ? "own warm" : "own cold", [&] {
      for (uint32_t i = 0; i < options_.prompts.size(); ++i) Send("own", warm, i, BodyOf(options_.prompts[i]));
    });
  }
}

// A conversation: each prompt is all that was said before and a new question.
void Run::Turns() {
  Phase("turns", [&] {
    const Length length{"turns", Lengths()[1].tokens / std::max(1u, options_.turns)};
    std::string said = PromptOf(length, 0);
    for (uint32_t turn = 0; turn < options_.turns; ++turn) {
      Send("turns", turn > 0, turn, BodyOf(said, options_.output_tokens));
      if (record_.requests.empty() || record_.requests.back().phase != "turns") return;
      absl::StrAppend(&said, " ", record_.requests.back().answer.text, " ", PromptOf(length, turn + 1));
    }
  });
}

void Run::Concurrent() {
  Phase("concurrent", [&] {
    const Length length{"concurrent", Lengths()[1].tokens};
    std::vector<Request> requests(options_.concurrency);
    std::vector<std::jthread> threads;
    for (uint32_t i = 0; i < options_.concurrency; ++i) {
      if (std::optional<Request> known = journal_ ? journal_->Take("concurrent", false, i) : std::nullopt) {
        requests[i] = *std::move(known);
        continue;
      }
      const nlohmann::json body = options_.prompts.empty() ? BodyOf(PromptOf(length, i), options_.output_tokens)
                                                           : BodyOf(options_.prompts[i % options_.prompts.size()]);
      threads.emplace_back([this, i, body, &requests] {
        const std::string path = body.contains("messages") ? "/chat/completions" : "/completions";
        requests[i] = {"concurrent", false, i, endpoint_.Stream(path, body, {})};
      });
    }
    threads.clear();
    for (Request& request : requests) Keep(std::move(request));
  });
}

// What a client may send by mistake. A good server refuses each with a 4xx, at once.
void Run::Malformed() {
  const std::string path = probe_.api == "chat" ? "/chat/completions" : "/completions";
  const nlohmann::json good = BodyOf("hello", 1);
  nlohmann::json negative = good, unknown = good, typed = good, endless = good;
  negative["max_tokens"] = -1;
  unknown["model"] = "no-such-model-of-stemctl";
  typed[probe_.api == "chat" ? "messages" : "prompt"] = 12.5;
  endless["max_tokens"] = uint64_t{1} << 40;
  const std::pair<const char*, std::string> bodies[] = {{"not JSON", "{\"model\": "}, {"max_tokens -1", negative.dump()},
                                                       {"unknown model", unknown.dump()}, {"prompt of the wrong type", typed.dump()},
                                                       {"max_tokens 2^40", endless.dump()}};
  uint32_t number = 0;
  for (const auto& [what, body] : bodies) {
    if (over()) return;
    Request request{"malformed", false, number++, endpoint_.Raw(path, body)};
    Completion& answer = request.answer;
    const bool refused = answer.http_status >= 400 && answer.http_status < 500;
    if (!refused) answer.oddities.push_back(absl::StrCat(what, ": ", answer.http_status == 0 ? answer.error : absl::StrCat("status ", answer.http_status)));
    answer.error = "";
    Keep(std::move(request));
  }
}

void Run::Fixed() {
  const std::vector<std::string> prompts = FixedPrompts();
  for (uint32_t i = 0; i < prompts.size(); ++i) {
    nlohmann::json body = BodyOf(prompts[i], std::max<uint64_t>(options_.output_tokens, 32));
    if (probe_.has_logprobs && probe_.api != "chat") body["logprobs"] = 1;
    Send("fixed", false, i, body);
  }
}

// Before generation, after prefill, while decoding: one long prompt of its own.
void Run::SeeMemory(const Length& longest) {
  if (!process_ || over()) return;
  Memory& memory = record_.memory;
  memory.before_bytes = ResidentBytes(*process_);
  const Moments moments{[&] { memory.first_token_bytes = ResidentBytes(*process_); }};
  const Length length{"memory", longest.tokens};
  const Completion answer = endpoint_.Stream(probe_.api == "chat" ? "/chat/completions" : "/completions",
                                             BodyOf(PromptOf(length, 0), options_.output_tokens), moments);
  memory.decode_bytes = ResidentBytes(*process_);
  if (!answer.ok()) record_.notes.push_back(absl::StrCat("memory: ", answer.error));
}

absl::StatusOr<Record> Run::Measure() {
  STEM_ASSIGN(probe_, Discover(endpoint_, {options_.model, options_.api, options_.metrics_url}));
  record_.url = endpoint_.url();
  record_.model = probe_.model;
  record_.engine = probe_.engine;
  record_.version = probe_.version;
  record_.api = probe_.api;
  record_.context_max = probe_.context_max;
  record_.notes = probe_.notes;
  record_.date = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  record_.facts = options_.facts;
  if (endpoint_.local()) {
    process_ = ListenerOf(endpoint_.port());
    record_.facts.try_emplace("hardware", Hardware());
    if (process_) record_.facts.try_emplace("flags", CommandLine(*process_));
  }
  if (!process_) record_.notes.emplace_back("memory of the engine: not seen (it listens on another machine, or is not ours to see)");
  record_.options = {{"short_tokens", options_.short_tokens}, {"average_tokens", options_.average_tokens},
                     {"longest_tokens", options_.longest_tokens}, {"rounds", options_.rounds}, {"turns", options_.turns},
                     {"concurrency", options_.concurrency}, {"output_tokens", options_.output_tokens}};
  nlohmann::json asked = {record_.options, FixedPrompts(), nlohmann::json::array()};
  for (const UserPrompt& prompt : options_.prompts) asked[2].push_back({prompt.prompt, prompt.messages, prompt.max_tokens});
  record_.prompt_set = Sha256Hex(asked.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  if (!options_.journal.empty()) {
    const std::string what = absl::StrCat(record_.url, " ", record_.model, " ", record_.prompt_set);
    STEM_ASSIGN(journal_, Journal::Open(options_.journal, what, &seed_));
    if (journal_->known() > 0) {
      record_.notes.push_back(absl::StrCat("went on after an interruption: ", journal_->known(), " requests were measured before it"));
    }
  }
  const bool own = !options_.prompts.empty();
  total_ = (own ? 2 * options_.prompts.size() : 6 * options_.rounds + options_.turns) + options_.concurrency + 5 + FixedPrompts().size();
  if (own) {
    OwnPrompts();
  } else {
    SeeMemory(Lengths()[2]);
    ColdAndWarm();
    Turns();
  }
  Concurrent();
  Malformed();
  Fixed();
  record_.whole = !over();
  if (!gave_up_ && !record_.whole) record_.notes.push_back(absl::StrCat("ended after ", absl::FormatDuration(options_.whole_limit)));
  if (journal_ && record_.whole) journal_->Remove();
  return std::move(record_);
}

absl::Status Check(const MeasureOptions& options) {
  const auto in_range = [](const char* flag, uint64_t value, uint64_t least, uint64_t most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, "; must be ", least, "..", most));
  };
  STEM_TRY(in_range("--short", options.short_tokens, 16, 1 << 20));
  STEM_TRY(in_range("--average", options.average_tokens, 16, 1 << 20));
  STEM_TRY(in_range("--longest", options.longest_tokens, 16, 1 << 20));
  STEM_TRY(in_range("--rounds", options.rounds, 1, 1000));
  STEM_TRY(in_range("--turns", options.turns, 1, 100));
  STEM_TRY(in_range("--concurrency", options.concurrency, 1, 256));
  STEM_TRY(in_range("--output", options.output_tokens, 1, 65536));
  if (options.api.empty() || options.api == "chat" || options.api == "completions") return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--api ", options.api, "; must be completions or chat"));
}

}  // namespace

absl::StatusOr<Record> Measure(const Endpoint& endpoint, const MeasureOptions& options) {
  STEM_TRY(Check(options));
  return Run(endpoint, options).Measure();
}

}  // namespace stem::profile
