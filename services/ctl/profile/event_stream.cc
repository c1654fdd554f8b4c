#include "services/ctl/profile/event_stream.h"

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace stem::profile {
namespace {

constexpr size_t kLineBytesMax = 8 << 20;
constexpr size_t kOdditiesMax = 8;

// Text of a field, "" when it is none.
std::string TextOf(const nlohmann::json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

uint64_t NumberOf(const nlohmann::json& object, const char* field) {
  const auto found = object.find(field);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

}  // namespace

void EventStream::Feed(absl::string_view bytes) {
  rest_.append(bytes.data(), bytes.size());
  size_t at = 0;
  for (size_t end; (end = rest_.find('\n', at)) != std::string::npos && !broken(); at = end + 1) {
    absl::string_view line(rest_.data() + at, end - at);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    Line(line);
  }
  rest_.erase(0, at);
  if (rest_.size() > kLineBytesMax) why_ = absl::StrCat("a line of more than ", kLineBytesMax >> 20, " MiB in the stream");
}

void EventStream::Line(absl::string_view line) {
  constexpr absl::string_view kData = "data:";
  if (line.substr(0, kData.size()) != kData) return;  // comments, event names, blank lines; an error's body
  line.remove_prefix(kData.size());
  while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  if (line == "[DONE]") {
    done_ = true;
    return;
  }
  const nlohmann::json chunk = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!chunk.is_object()) {
    why_ = absl::StrCat("the stream holds what is not JSON: ", std::string(line.substr(0, 80)));
    return;
  }
  if (chunk.contains("error")) {
    why_ = absl::StrCat("the stream ended in an error: ", chunk["error"].dump().substr(0, 200));
    return;
  }
  Chunk(chunk);
}

void EventStream::Chunk(const nlohmann::json& chunk) {
  if (chunk.contains("usage") && chunk["usage"].is_object()) Usage(chunk["usage"]);
  const auto choices = chunk.find("choices");
  if (choices == chunk.end() || !choices->is_array() || choices->empty() || !(*choices)[0].is_object()) return;
  Token((*choices)[0]);
}

void EventStream::Token(const nlohmann::json& choice) {
  std::string text = TextOf(choice, "text");
  bool carries = choice.contains("text");
  if (choice.contains("delta") && choice["delta"].is_object()) {  // of a chat; the first only names the role
    const nlohmann::json& delta = choice["delta"];
    text = TextOf(delta, "content");
    if (text.empty()) text = TextOf(delta, "reasoning_content");
    if (text.empty()) text = TextOf(delta, "reasoning");
    carries = !text.empty();
  }
  const auto logprobs = choice.find("logprobs");
  uint64_t tokens = 0;
  if (logprobs != choice.end() && logprobs->is_object() && logprobs->contains("tokens") && (*logprobs)["tokens"].is_array()) {
    const nlohmann::json& values = logprobs->value("token_logprobs", nlohmann::json::array());
    for (const nlohmann::json& token : (*logprobs)["tokens"]) {
      if (token.is_string()) completion_.tokens.push_back(token.get<std::string>());
      const bool has_value = values.is_array() && tokens < values.size() && values[tokens].is_number();
      completion_.logprobs.push_back(has_value ? values[tokens].get<double>() : 0);
      ++tokens;
    }
  }
  completion_.text += text;
  // The chunk that only tells why it ended carries no token.
  const bool ends = choice.contains("finish_reason") && !choice["finish_reason"].is_null();
  if (!carries || (ends && text.empty() && tokens == 0)) return;
  const absl::Time now = absl::Now();
  if (completion_.pieces++ == 0) {
    completion_.timing.first = now - begun_;
    if (moments_.first_token) moments_.first_token();
  } else {
    completion_.timing.gaps_s.push_back(absl::ToDoubleSeconds(now - last_));
  }
  last_ = now;
}

void EventStream::Usage(const nlohmann::json& usage) {
  usage_ = true;
  completion_.prompt_tokens = NumberOf(usage, "prompt_tokens");
  completion_.completion_tokens = NumberOf(usage, "completion_tokens");
  const auto details = usage.find("prompt_tokens_details");
  if (details != usage.end() && details->is_object()) completion_.cached_tokens = NumberOf(*details, "cached_tokens");
}

void EventStream::End(uint64_t tokens_asked) {
  completion_.timing.total = absl::Now() - begun_;
  if (!completion_.error.empty()) return;
  const auto odd = [&](const std::string& what) {
    if (completion_.oddities.size() < kOdditiesMax) completion_.oddities.push_back(what);
  };
  const uint64_t said = completion_.completion_tokens, came = std::max<uint64_t>(completion_.pieces, completion_.tokens.size());
  if (!usage_) completion_.completion_tokens = came;
  if (!done_) odd("the stream did not end with [DONE]");
  if (usage_ && said < completion_.pieces) odd(absl::StrCat("usage says ", said, " tokens, ", completion_.pieces, " pieces came"));
  if (usage_ && completion_.tokens.size() > said) odd(absl::StrCat("usage says ", said, " tokens, ", completion_.tokens.size(), " came"));
  if (tokens_asked > 0 && std::max(said, came) > tokens_asked) {
    odd(absl::StrCat(std::max(said, came), " tokens for max_tokens ", tokens_asked));
  }
  if (completion_.cached_tokens > completion_.prompt_tokens) {
    odd(absl::StrCat(completion_.cached_tokens, " cached tokens of a prompt of ", completion_.prompt_tokens));
  }
}

}  // namespace stem::profile
