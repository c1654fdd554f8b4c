#include "services/ctl/trace_batches.h"

#include <utility>

#include "services/ctl/replay_router.h"
#include "storage/policy/mixed.h"

namespace stem {
namespace {

constexpr size_t kBatchBlocks = 1 << 16;

// Not the bits by which policies sample for themselves.
bool Sampled(uint64_t key, uint32_t shift) { return shift == 0 || Mixed(key) >> (64 - shift) == 0; }

}  // namespace

absl::StatusOr<std::unique_ptr<TraceBatches>> TraceBatches::Open(const SimulateOptions& options) {
  auto batches = std::unique_ptr<TraceBatches>(new TraceBatches(options));
  STEM_ASSIGN(batches->trace_, TraceReader::Open(options.trace, {.format = options.format, .block_tokens = options.block_tokens}));
  return batches;
}

absl::StatusOr<bool> TraceBatches::Next(PreparedBatch* batch) {
  batch->requests.clear();
  batch->blocks.clear();
  batch->keys.clear();
  while (batch->blocks.size() < kBatchBlocks && (options_.requests_max == 0 || requests_ < options_.requests_max)) {
    STEM_ASSIGN(const bool more, trace_->Next(&request_));
    if (!more) break;
    Prepare(batch);
  }
  return !batch->requests.empty();
}

void TraceBatches::Prepare(PreparedBatch* batch) {
  const uint64_t tokens = request_.input_tokens;
  size_t blocks = request_.hash_ids.size();
  const uint64_t tail_tokens = tokens % block_tokens();
  if (options_.partial == PartialBlock::kDrop && tail_tokens != 0 && blocks > tokens / block_tokens()) --blocks;
  PreparedRequest prepared{.number = ++requests_,
                           .session = SessionOf(request_),
                           .at = absl::UnixEpoch() + absl::Milliseconds(request_.timestamp_ms),
                           .first = batch->blocks.size(),
                           .tokens = tokens,
                           .counted = requests_ > options_.warmup_requests};
  for (size_t i = 0; i < blocks; ++i) {
    const uint64_t key = request_.hash_ids[i];
    if (!Sampled(key, options_.sample_shift)) continue;
    batch->blocks.push_back(numbers_.try_emplace(key, static_cast<uint32_t>(numbers_.size())).first->second);
    batch->keys.push_back(key);
  }
  prepared.count = batch->blocks.size() - prepared.first;
  references_ += prepared.count;
  batch->requests.push_back(prepared);
}

}  // namespace stem
