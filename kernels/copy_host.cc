// The CPU twin of gather and scatter.
#include "kernels/chunk_stream.h"
#include "kernels/copy_plan.h"
#include "kernels/copy_walk.h"

namespace stem {
namespace {

using checksum_internal::ChecksumIsa;
using checksum_internal::CopyRun;

constexpr size_t kRunsMax = 512;
constexpr size_t kRunsKept = 64;  // of a batch that is full, for the next: so that one is fetched while the other is copied
constexpr size_t kChunkRunsMax = 64;

// Collects runs and hands them on in batches: so many to copy, of so many known, that the next ones can be fetched while
// one is copied.
template <typename Take>
class RunBatch {
 public:
  explicit RunBatch(Take take) : take_(take) {}
  ~RunBatch() { take_(runs_, count_, count_); }
  RunBatch(const RunBatch&) = delete;

  void Add(void* to, const void* from, size_t bytes) {
    runs_[count_++] = {to, from, bytes};
    if (count_ < kRunsMax) return;
    take_(runs_, kRunsMax - kRunsKept, kRunsMax);
    std::copy(runs_ + kRunsMax - kRunsKept, runs_ + kRunsMax, runs_);
    count_ = kRunsKept;
  }

 private:
  Take take_;
  size_t count_ = 0;
  CopyRun runs_[kRunsMax];
};

void CopyBlock(const CopyPlan& plan, const CopyItem& item, const ChecksumIsa& isa, bool stream) {
  const auto take = [&](const CopyRun* runs, size_t count, size_t known) { MoveRuns(isa, stream, runs, count, known); };
  RunBatch<decltype(take)> batch(take);
  const bool gather = plan.direction == CopyDirection::kGather;
  ForEachRun(plan, item, [&](std::byte* page, uint64_t at, uint64_t bytes) {
    std::byte* const block = item.block + at;
    gather ? batch.Add(block, page, bytes) : batch.Add(page, block, bytes);
  });
}

void Fetch(const CopyRun& run, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kCacheLineBytes) {
    __builtin_prefetch(static_cast<const std::byte*>(run.from) + at, 0, 2);
  }
}

void GatherAndHash(const CopyPlan& plan, const CopyItem& item, const ChecksumIsa& isa, bool stream, uint64_t* hashes) {
  constexpr size_t kAheadBytes = 4096;
  ChunkSink sink(isa, stream, item.block, hashes);
  const auto take = [&](const CopyRun* runs, size_t count, size_t known) {
    const CopyRun* const end = runs + known;
    const CopyRun* ahead = runs;  // fetched so far
    size_t fetched_bytes = 0;     // of the runs from the present one on
    for (const CopyRun* run = runs; run != runs + count; ++run) {
      for (; ahead != end && fetched_bytes < kAheadBytes + run->bytes; fetched_bytes += (ahead++)->bytes) {
        Fetch(*ahead, std::min(ahead->bytes, kAheadBytes));
      }
      sink.Append(static_cast<const std::byte*>(run->from), run->bytes);
      fetched_bytes -= run->bytes;
    }
  };
  RunBatch<decltype(take)> batch(take);
  ForEachRun(plan, item, [&](std::byte* page, uint64_t, uint64_t bytes) { batch.Add(nullptr, page, bytes); });
}

void ScatterAndHash(const CopyPlan& plan, const CopyItem& item, const ChecksumIsa& isa, bool stream, uint64_t* hashes) {
  ChunkSource source(isa, item.block, plan.block_bytes(), hashes);
  CopyRun runs[kChunkRunsMax];  // of the chunk that the source holds
  size_t count = 0;
  const auto flush = [&] {
    MoveRuns(isa, stream, runs, count, count);
    count = 0;
  };
  ForEachRun(plan, item, [&](std::byte* page, uint64_t at, uint64_t bytes) {
    while (bytes > 0) {
      uint64_t part = stream && count == 0 ? source.MoveChunks(at, bytes, page) : 0;
      if (part == 0) {
        part = std::min<uint64_t>(bytes, kStreamChunkBytes - at % kStreamChunkBytes);
        if (count == kChunkRunsMax || !source.Holds(at, part)) flush();
        runs[count++] = {page, source.Take(at, part), part};
      }
      page += part;
      at += part;
      bytes -= part;
    }
  });
  flush();
}

}  // namespace

void RunOnHost(const CopyPlan& plan, uint64_t* const* hashes) {
  const ChecksumIsa& isa = checksum_internal::FastestIsa();
  const uint64_t copied_bytes = plan.block_bytes() / plan.block_heads * plan.heads * plan.item_count;
  const bool stream = copied_bytes >= kStreamBytesMin;
  for (uint32_t i = 0; i < plan.item_count; ++i) {
    if (hashes == nullptr) {
      CopyBlock(plan, plan.items[i], isa, stream);
    } else if (plan.direction == CopyDirection::kGather) {
      GatherAndHash(plan, plan.items[i], isa, stream, hashes[i]);
    } else {
      ScatterAndHash(plan, plan.items[i], isa, stream, hashes[i]);
    }
  }
  if (stream) isa.fence();
}

}  // namespace stem
