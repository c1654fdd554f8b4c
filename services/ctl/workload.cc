#include "services/ctl/workload.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_format.h"

namespace stem {
namespace {

// Sizes of the parts of a chat, in tokens: orders of magnitude seen in published chat traces.
constexpr uint64_t kSystemTokensMin = 200;
constexpr double kSystemTokensMean = 1200;
constexpr double kUserTokensMean = 250;
constexpr double kAnswerTokensMean = 350;
constexpr uint64_t kAnswerTokensMax = 4096;
constexpr uint64_t kContextTokensMax = 32768;  // a longer conversation ends
constexpr uint64_t kAnswerMsPerToken = 15;

absl::Status InRange(const char* flag, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("--%s %d; must be %d..%d", flag, value, least, most));
}

}  // namespace

absl::Status ValidateWorkload(const WorkloadOptions& options) {
  STEM_TRY(InRange("requests", options.requests, 1, 100'000'000));
  STEM_TRY(InRange("block-tokens", options.block_tokens, 1, 65536));
  STEM_TRY(InRange("sessions", options.sessions, 1, 65536));
  STEM_TRY(InRange("system-prompts", options.system_prompts, 1, 4096));
  STEM_TRY(InRange("turns-mean", options.turns_mean, 1, 1000));
  return InRange("think-ms-mean", options.think_ms_mean, 1, 3'600'000);
}

Workload::Workload(const WorkloadOptions& options)
    : options_(options), random_(options.seed), system_blocks_(options.system_prompts), sessions_(options.sessions) {
  double sum = 0;
  for (uint32_t rank = 1; rank <= options.system_prompts; ++rank) popularity_.push_back(sum += 1.0 / rank);
  for (uint32_t i = 0; i < options.system_prompts; ++i) {
    system_tokens_.push_back(kSystemTokensMin + Exponential(kSystemTokensMean));
  }
  for (size_t place = 0; place < sessions_.size(); ++place) {
    Begin(&sessions_[place]);
    turns_.push({Exponential(options.think_ms_mean), sessions_[place].id, place});
  }
}

// Not the library's distributions: what they return is not fixed by the standard.
double Workload::Uniform() { return (static_cast<double>(random_() >> 11) + 1) * 0x1.0p-53; }

uint64_t Workload::Exponential(double mean) {
  return std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(-std::log(Uniform()) * mean)));
}

const std::vector<uint64_t>& Workload::SystemPrompt(size_t index) {
  std::vector<uint64_t>& blocks = system_blocks_[index];
  if (blocks.empty()) {
    // Only full blocks are shared: the last, partial one goes on with the session's own words.
    for (uint64_t i = 0; i < system_tokens_[index] / options_.block_tokens; ++i) blocks.push_back(next_block_++);
  }
  return blocks;
}

void Workload::Begin(Session* session) {
  const double drawn = Uniform() * popularity_.back();
  const auto rank = std::lower_bound(popularity_.begin(), popularity_.end(), drawn) - popularity_.begin();
  const auto index = std::min(static_cast<size_t>(rank), popularity_.size() - 1);
  session->id = next_session_++;
  session->turn = 0;
  session->blocks = SystemPrompt(index);
  session->tokens = system_tokens_[index] + Exponential(kUserTokensMean);
}

bool Workload::Next(TraceRequest* request) {
  if (made_ == options_.requests) return false;
  ++made_;
  const Turn turn = turns_.top();
  turns_.pop();
  Session& session = sessions_[turn.place];
  while (session.blocks.size() < session.tokens / options_.block_tokens) session.blocks.push_back(next_block_++);
  request->line = made_ + 1;
  request->timestamp_ms = turn.at_ms;
  request->input_tokens = session.tokens;
  request->output_tokens = std::min(Exponential(kAnswerTokensMean), kAnswerTokensMax);
  request->session = session.id;
  request->turn = session.turn;
  request->hash_ids = session.blocks;
  if (session.tokens % options_.block_tokens != 0) request->hash_ids.push_back(next_block_++);

  const uint64_t answered_ms = turn.at_ms + request->output_tokens * kAnswerMsPerToken;
  session.tokens += request->output_tokens + Exponential(kUserTokensMean);
  ++session.turn;
  if (session.tokens > kContextTokensMax || Uniform() <= 1.0 / options_.turns_mean) Begin(&session);
  turns_.push({answered_ms + Exponential(options_.think_ms_mean), session.id, turn.place});
  return true;
}

absl::Status WriteWorkload(const WorkloadOptions& options, const std::string& path) {
  STEM_TRY(ValidateWorkload(options));
  std::FILE* const file = path == "-" ? stdout : std::fopen(path.c_str(), "we");
  const auto failed = [&path] {
    return absl::UnavailableError(absl::StrFormat("cannot write %s: %s", path, std::strerror(errno)));
  };
  if (file == nullptr) return failed();
  Workload workload(options);
  TraceRequest request;
  std::string text = StemTraceHeader(options.block_tokens);
  bool written = true;
  while (written && workload.Next(&request)) {
    AppendStemTraceLine(request, &text);
    written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    text.clear();
  }
  written = std::fflush(file) == 0 && written;
  const absl::Status status = written ? absl::OkStatus() : failed();
  if (file != stdout) std::fclose(file);
  return status;
}

}  // namespace stem
