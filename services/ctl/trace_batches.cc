#include "services/ctl/trace_batches.h"

#include <utility>

#include "services/ctl/replay_router.h"
#include "proto/mixed.h"

namespace stem {
namespace {

constexpr size_t kBatchBlocks = 1 << 16;

// Not the bits by which policies sample for themselves.
bool Sampled(uint64_t key, uint32_t shift) { return shift == 0 || Mixed(key) >> (64 - shift) == 0; }

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const SimulateOptions& options) {
  return TraceReader::Open(options.trace, {.format = options.format, .block_tokens = options.block_tokens});
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceBatches>> TraceBatches::Open(const SimulateOptions& options) {
  auto batches = std::unique_ptr<TraceBatches>(new TraceBatches(options));
  if (options.hints == SimulatedHints::kOutlook) STEM_TRY(batches->FindLastRequests());
  STEM_ASSIGN(batches->trace_, OpenTrace(options));
  return batches;
}

absl::Status TraceBatches::FindLastRequests() {
  STEM_ASSIGN(const std::unique_ptr<TraceReader> trace, OpenTrace(options_));
  for (uint64_t number = 1;; ++number) {
    STEM_ASSIGN(const bool more, trace->Next(&request_));
    if (!more) return absl::OkStatus();
    if (request_.session.has_value()) last_requests_[*request_.session] = number;
  }
}

absl::StatusOr<bool> TraceBatches::Next(PreparedBatch* batch) {
  batch->requests.clear();
  batch->blocks.clear();
  batch->keys.clear();
  while (batch->blocks.size() < kBatchBlocks && (options_.requests_max == 0 || requests_ < options_.requests_max)) {
    STEM_ASSIGN(const bool more, trace_->Next(&request_));
    if (!more) break;
    STEM_TRY(Prepare(batch));
  }
  return !batch->requests.empty();
}

absl::Status TraceBatches::Prepare(PreparedBatch* batch) {
  const uint64_t tokens = request_.input_tokens;
  size_t blocks = request_.hash_ids.size();
  const uint64_t tail_tokens = tokens % block_tokens();
  if (options_.partial == PartialBlock::kDrop && tail_tokens != 0 && blocks > tokens / block_tokens()) --blocks;
  PreparedRequest prepared{.number = ++requests_,
                           .session = SessionOf(request_),
                           .first = batch->blocks.size(),
                           .tokens = tokens,
                           .counted = requests_ > options_.warmup_requests};
  if (options_.hints != SimulatedHints::kNone) {
    if (!request_.session.has_value()) return absl::InvalidArgumentError("--hints: the trace tells no sessions");
    prepared.conversation.id = Mixed(*request_.session + 1);
    if (options_.hints == SimulatedHints::kOutlook) {
      prepared.conversation.outlook = last_requests_[*request_.session] == requests_ ? Outlook::kEnded : Outlook::kWillResume;
    }
  }
  for (size_t i = 0; i < blocks; ++i) {
    const uint64_t key = request_.hash_ids[i];
    if (!Sampled(key, options_.sample_shift)) continue;
    batch->blocks.push_back(numbers_.try_emplace(key, static_cast<uint32_t>(numbers_.size())).first->second);
    batch->keys.push_back(key);
  }
  prepared.count = batch->blocks.size() - prepared.first;
  references_ += prepared.count;
  batch->requests.push_back(prepared);
  return absl::OkStatus();
}

}  // namespace stem
