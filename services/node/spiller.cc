#include "services/node/spiller.h"

#include <vector>

#include "absl/time/clock.h"

namespace stem {
namespace {

constexpr uint64_t kBatchBytes = 16ULL << 20;  // sequential enough for the disk, short enough for a waiting publish
constexpr absl::Duration kIdle = absl::Milliseconds(50);
constexpr absl::Duration kRetryAfterFailure = absl::Seconds(1);

}  // namespace

Spiller::Spiller(SpaceTable& spaces, SpillStore& store, LatestPublish& latest, const RequestSinks& sinks, Logger& log)
    : spaces_(spaces), store_(store), latest_(latest), sinks_(sinks), log_(log), thread_([this] { Run(); }) {}

Spiller::~Spiller() {
  stopping_ = true;
  thread_.join();
}

void Spiller::Run() {
  while (!stopping_) {
    size_t spilled = 0;
    const std::vector<BlockPool*> pools = spaces_.pools();
    for (BlockPool* pool : pools) spilled += Step(*pool);
    if (failing_) {
      absl::SleepFor(kRetryAfterFailure);
    } else if (spilled == 0) {
      // With several pools none may be waited for alone.
      if (pools.size() == 1) {
        pools.front()->WaitForSpillDemand(kIdle);
      } else {
        absl::SleepFor(absl::Milliseconds(5));
      }
    }
  }
}

size_t Spiller::Step(BlockPool& pool) {
  std::vector<BlockPin> batch = pool.TakeSpillBatch(kBatchBytes);
  if (batch.empty()) return 0;
  const absl::Time begin = absl::Now();
  uint64_t bytes = 0;
  std::vector<SpillWrite> writes;
  writes.reserve(batch.size());
  for (const BlockPin& pin : batch) {
    const BlockMeta& meta = pin.meta();
    writes.push_back({.meta = meta, .payload = pin.view().payload(meta.length)});
    bytes += SpillRecordBytes(meta.length);
  }
  absl::Status status = absl::OkStatus();
  if (const std::vector<BlockName> gone = pool.MakeSsdRoom(bytes); !gone.empty()) status = store_.Remove(gone);
  if (status.ok()) status = store_.Put(writes);
  sinks_.metrics.Observe(Stage::kSpill, absl::Now() - begin);
  if (sinks_.tracer.on()) Trace(begin, batch.size(), bytes, status);
  if (status.ok()) {
    sinks_.metrics.AddBytes(v1::BYTE_PATH_SSD_WRITE, bytes);
    sinks_.metrics.AddSeconds(v1::BYTE_PATH_SSD_WRITE, absl::Now() - begin);
    sinks_.metrics.CountSpilled(batch.size());
  }
  if (!status.ok() && !failing_) log_.Error("spill_failed", {{"blocks", batch.size()}, {"why", status.message()}});
  if (status.ok() && failing_) log_.Info("spill_recovered");
  failing_ = !status.ok();
  const size_t blocks = batch.size();
  const std::vector<BlockName> withdrawn = pool.FinishSpill(std::move(batch), status.ok());
  if (status.ok() && !withdrawn.empty()) status = store_.Remove(withdrawn);
  return status.ok() ? blocks : 0;
}

void Spiller::Trace(absl::Time begin, size_t blocks, uint64_t bytes, const absl::Status& status) {
  const TraceContext publish = latest_.Take();
  const absl::Time end = absl::Now();
  Span span{.name = StageName(Stage::kSpill),
            .self = sinks_.tracer.Begin(publish),
            .parent = publish.span,
            .begin = begin,
            .end = end,
            .attributes = {{"stemcache.blocks", static_cast<int64_t>(blocks)},
                           {"stemcache.bytes", static_cast<int64_t>(bytes)},
                           {"stemcache.tier", std::string("ssd")}},
            .error = std::string(status.message())};
  if (!span.self.sampled && status.ok() && !sinks_.tracer.IsSlow(end - begin)) return;
  std::vector<Span> spans;
  spans.push_back(std::move(span));
  sinks_.tracer.Keep(std::move(spans));
}

}  // namespace stem
