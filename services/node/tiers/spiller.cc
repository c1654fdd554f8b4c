#include "services/node/tiers/spiller.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/checksum.h"

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
  const absl::Time begin = absl::Now();
  std::vector<BlockPin> batch = pool.TakeSpillBatch(kBatchBytes);
  const std::vector<SpillWrite> writes = WritesOf(batch);
  uint64_t bytes = 0;
  for (const SpillWrite& write : writes) bytes += SpillRecordBytes(write.meta.length);
  // Here alone records are given up for room, and removed before the next batch, which may write the same ones again. Without a batch too: the
  // quota may be smaller now.
  const std::vector<SpillRecordId> gone = pool.MakeSsdRoom(bytes);
  absl::Status status = gone.empty() ? absl::OkStatus() : store_.Remove(gone);
  if (batch.empty()) {
    if (!gone.empty()) Note(status, gone.size());
    return status.ok() ? gone.size() : 0;
  }
  if (status.ok()) status = store_.Put(writes);
  sinks_.metrics.Observe(Stage::kSpill, absl::Now() - begin);
  if (sinks_.tracer.on()) Trace(begin, batch.size(), bytes, status);
  if (status.ok()) {
    sinks_.metrics.AddBytes(v1::BYTE_PATH_SSD_WRITE, bytes);
    sinks_.metrics.AddSeconds(v1::BYTE_PATH_SSD_WRITE, absl::Now() - begin);
    sinks_.metrics.CountSpilled(batch.size());
  }
  CountEncoded(status.ok());
  Note(status, batch.size());
  const size_t blocks = batch.size();
  std::vector<BlockMeta> records;
  for (const SpillWrite& write : writes) records.push_back(write.meta);
  const std::vector<SpillRecordId> withdrawn = pool.FinishSpill(std::move(batch), status.ok(), records);
  if (status.ok() && !withdrawn.empty()) status = store_.Remove(withdrawn);
  return status.ok() ? blocks : 0;
}

std::vector<SpillWrite> Spiller::WritesOf(const std::vector<BlockPin>& batch) {
  std::vector<SpillWrite> writes;
  uint64_t encoded_bytes = 0;
  const auto room_for = [](const SpillCodec& codec, const BlockMeta& meta) { return SpillPages(codec.RecordBytes(meta.length)) * kSpillPageBytes; };
  for (const BlockPin& pin : batch) {
    const BlockMeta& meta = pin.meta();
    writes.push_back({.meta = meta, .payload = pin.view().payload(meta.length)});
    if (const auto& codec = EncoderOf(meta.name.space).codec; codec.has_value()) encoded_bytes += room_for(*codec, meta);
  }
  if (encoded_bytes == 0) return writes;
  if (encoded_.bytes().size() < encoded_bytes) encoded_ = AlignedBuffer(encoded_bytes);
  std::span<std::byte> room = encoded_.bytes();
  for (SpillWrite& write : writes) {
    Encoder& encoder = EncoderOf(write.meta.name.space);
    if (!encoder.codec.has_value()) continue;
    const uint64_t taken = room_for(*encoder.codec, write.meta);
    if (Encode(encoder, write, room)) room = room.subspan(taken);
  }
  return writes;
}

bool Spiller::Encode(Encoder& encoder, SpillWrite& write, std::span<std::byte> room) {
  const SpillCodec& codec = *encoder.codec;
  const std::span<const std::byte> payload = write.payload;
  const std::span<std::byte> record = room.first(codec.RecordBytes(payload.size()));
  std::vector<uint64_t> chunk_hashes(ChunkCount(payload.size()));
  // Codes have a digest of their own: of bytes that went bad in memory they would prove what nobody published. As they are, they fail their proof.
  if (Digest(write.meta.name, payload, chunk_hashes) != write.meta.digest) return false;
  if (!codec.HasWholeRuns(payload.size()) || !codec.Encode(payload, record)) {
    ++encoder.batch.payloads_kept;
    return false;
  }
  if (encoder.encoded++ % kPayloadsPerSample == 0) {
    decoded_.resize(std::max(decoded_.size(), payload.size()));
    const std::span<std::byte> decoded = std::span(decoded_).first(payload.size());
    codec.Decode(record, decoded);
    encoder.batch.error.Add(codec.Compare(payload, decoded));
    ++encoder.batch.samples;
  }
  ++encoder.batch.payloads;
  encoder.batch.payload_bytes += payload.size();
  encoder.batch.record_bytes += record.size();
  write.payload = record;
  write.meta.length = record.size();
  write.meta.digest = Digest(write.meta.name, record, std::span(chunk_hashes).first(ChunkCount(record.size())));
  write.meta.encoding = codec.encoding();
  return true;
}

Spiller::Encoder& Spiller::EncoderOf(const NamespaceFingerprint& space) {
  Encoder& encoder = encoders_[space];
  if (encoder.space == nullptr) {
    encoder.space = spaces_.Find(space);  // it has blocks, so it is there, and for good
    encoder.codec = SpillCodec::Of(encoder.space->spec);
  }
  return encoder;
}

void Spiller::CountEncoded(bool stored) {
  for (auto& [fingerprint, encoder] : encoders_) {
    if (!encoder.codec.has_value()) continue;
    const EncodedSpills batch = std::exchange(encoder.batch, EncodedSpills());
    if (stored && batch.payloads + batch.payloads_kept > 0) sinks_.metrics.CountEncoded(*encoder.space, batch);
  }
}

void Spiller::Note(const absl::Status& status, size_t blocks) {
  if (!status.ok() && !failing_) log_.Error("spill_failed", {{"blocks", blocks}, {"why", status.message()}});
  if (status.ok() && failing_) log_.Info("spill_recovered");
  failing_ = !status.ok();
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
