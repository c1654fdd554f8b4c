#include "services/node/tiers/promoter.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"
#include "proto/validate.h"
#include "services/node/tiers/spill_codec.h"
#include "storage/spill/aligned_buffer.h"

namespace stem {
namespace {

// The record against what this node wrote down of it; the store proved its bytes against the record's digest.
absl::Status Prove(const SpillRead& read, const BlockMeta& expected) {
  STEM_TRY(read.status);
  if (read.meta.name != expected.name || read.meta.length != expected.length) {
    return absl::DataLossError("the record is of another block");
  }
  if (read.meta.generation != expected.generation) {
    return absl::DataLossError(
        absl::StrCat("the record has generation ", read.meta.generation, ", not ", expected.generation));
  }
  if (read.meta.digest != expected.digest) return absl::DataLossError("the record is of other bytes");
  if (read.meta.encoding != expected.encoding) return absl::DataLossError("the record is encoded in another way");
  return absl::OkStatus();
}

// What lies in the slot.
struct Payload {
  uint64_t length = 0;
  uint64_t digest = 0;
};

// Proves what was read and, where that is beside the slot, decodes it into it. Errors: as `read` has, and DataLoss.
absl::StatusOr<Payload> ProvePayload(const SpillRead& read, const BlockMeta& record, const SlotView<std::byte>& slot, uint64_t bytes_max) {
  STEM_TRY(Prove(read, record));
  if (record.encoding == 0) return Payload{.length = record.length, .digest = record.digest};
  STEM_ASSIGN(const SpillCodec codec, SpillCodec::OfRecord(record.encoding));
  STEM_ASSIGN(const uint64_t length, codec.PayloadBytes(record.length));
  if (length > bytes_max) return absl::DataLossError(absl::StrCat("the record is of ", length, " bytes, a slot holds ", bytes_max));
  codec.Decode(read.payload, slot.payload(length));
  return Payload{.length = length, .digest = Digest(record.name, slot.payload(length), slot.chunk_hashes(ChunkCount(length)))};
}

uint64_t EncodedBytes(const Filling& filling) {
  const BlockMeta& record = *filling.promoted();
  return record.encoding == 0 ? 0 : SpillPages(record.length) * kSpillPageBytes;
}

// How many of `fillings` are read together, from the first on.
size_t SweepOf(std::span<const Filling> fillings) {
  size_t count = 0;
  uint64_t encoded_bytes = 0;
  for (const Filling& filling : fillings.first(std::min(fillings.size(), Promoter::kReadsPerSweep))) {
    encoded_bytes += EncodedBytes(filling);
    if (count > 0 && encoded_bytes > Promoter::kEncodedBytesPerSweep) break;
    ++count;
  }
  return count;
}

// A sweep in its request's steps: read until `read`, then proved.
void Note(RequestTrace& trace, absl::Time begin, absl::Time read, std::span<const absl::StatusOr<BlockPin>> pins) {
  const absl::Time end = absl::Now();
  const size_t promote = trace.Continue(Stage::kPromote, begin);
  const size_t parts[] = {trace.Continue(Stage::kRead, begin, promote), trace.Continue(Stage::kProve, read, promote), promote};
  trace.AddPiece(parts[0], begin, read);
  trace.AddPiece(parts[1], read, end);
  trace.AddPiece(parts[2], begin, end);
  for (const size_t part : parts) {
    TraceStep& step = trace.at(part);
    step.tier = v1::TIER_SSD;
    step.keys += static_cast<uint32_t>(pins.size());
    for (const absl::StatusOr<BlockPin>& pin : pins) {
      step.blocks += pin.ok() ? 1 : 0;
      step.bytes += pin.ok() ? pin->meta().length : 0;
    }
  }
  const auto bad = std::find_if(pins.begin(), pins.end(), [](const absl::StatusOr<BlockPin>& pin) { return !pin.ok(); });
  if (bad == pins.end()) return;
  const v1::MissCause cause = absl::IsDataLoss(bad->status()) ? v1::MISS_CAUSE_INTEGRITY : v1::MISS_CAUSE_EVICTED;
  trace.Fail(parts[1], bad->status(), cause);
}

}  // namespace

absl::StatusOr<Filling> Promoter::Begin(BlockPool& pool, const BlockName& name, absl::Time deadline) {
  STEM_ASSIGN(Filling filling, pool.BeginFill(name, std::nullopt, deadline));
  if (!filling.promoted().has_value()) return absl::NotFoundError("the block has left the SSD");
  return filling;
}

std::vector<absl::StatusOr<BlockPin>> Promoter::Promote(BlockPool& pool, std::vector<Filling> fillings, RequestTrace* trace) {
  std::vector<absl::StatusOr<BlockPin>> pins;
  pins.reserve(fillings.size());
  for (std::span<Filling> left(fillings); !left.empty();) {
    const size_t count = SweepOf(left);
    PromoteSweep(pool, left.first(count), trace, pins);
    left = left.subspan(count);
  }
  return pins;
}

void Promoter::PromoteSweep(BlockPool& pool, std::span<Filling> fillings, RequestTrace* trace, std::vector<absl::StatusOr<BlockPin>>& pins) {
  const size_t first = pins.size();
  uint64_t encoded_bytes = 0;
  for (const Filling& filling : fillings) encoded_bytes += EncodedBytes(filling);
  const AlignedBuffer encoded(encoded_bytes);
  std::span<std::byte> room = encoded.bytes();
  std::vector<SpillRead> reads;
  for (const Filling& filling : fillings) {
    const BlockMeta& record = *filling.promoted();
    const SlotView<std::byte> slot = filling.view();
    reads.push_back({.name = record.name,
                     .payload = record.encoding == 0 ? slot.payload(record.length) : room.first(record.length),
                     .chunk_hashes = slot.chunk_hashes(ChunkCount(record.length)),
                     .meta = {},
                     .status = absl::OkStatus()});
    room = room.subspan(EncodedBytes(filling));
  }
  const absl::Time begin = absl::Now();
  store_->Get(reads);
  const absl::Time read = absl::Now();
  metrics_.AddSeconds(v1::BYTE_PATH_SSD_READ, read - begin);
  for (size_t i = 0; i < fillings.size(); ++i) {
    Filling filling = std::move(fillings[i]);
    const BlockMeta record = *filling.promoted();
    const absl::StatusOr<Payload> payload = ProvePayload(reads[i], record, filling.view(), pool.geometry().block_bytes_max());
    if (payload.ok()) {
      metrics_.AddBytes(v1::BYTE_PATH_SSD_READ, record.length);
      pins.push_back(std::move(filling).Commit(payload->length, payload->digest, record.publisher));
      continue;
    }
    { const Filling abandoned = std::move(filling); }
    const absl::Status& proof = payload.status();
    const bool bad = absl::IsDataLoss(proof) || absl::IsNotFound(proof);
    const bool left = bad && !Quarantine(pool, record, "ssd", proof.message());
    pins.push_back(left ? absl::NotFoundError("the block left the SSD while it was read") : proof);
  }
  if (trace != nullptr) Note(*trace, begin, read, std::span(pins).subspan(first));
}

absl::Status Promoter::BringRun(BlockPool& pool, std::span<const BlockName> names, absl::Time deadline, RequestTrace* trace,
                                absl::FunctionRef<void(BlockPin, bool waited)> take) {
  for (size_t next = 0; next < names.size();) {
    if (BlockPin pin = pool.Pin(names[next]); pin.valid()) {
      take(std::move(pin), false);
      ++next;
      continue;
    }
    std::vector<Filling> fillings;
    absl::Status stopped;
    for (size_t i = next; i < names.size() && fillings.size() < kReadsPerSweep && pool.Find(names[i]) == BlockPool::Presence::kSsd; ++i) {
      // Whoever holds slots that are not filled yet waits for no other.
      absl::StatusOr<Filling> filling = Begin(pool, names[i], fillings.empty() ? deadline : absl::InfinitePast());
      stopped = filling.status();
      if (!stopped.ok()) break;
      fillings.push_back(*std::move(filling));
    }
    if (fillings.empty()) {
      STEM_ASSIGN(BlockPin pin, PinAwaited(pool, names[next], deadline, stopped));
      if (!pin.valid()) continue;
      take(std::move(pin), true);
      ++next;
      continue;
    }
    for (absl::StatusOr<BlockPin>& promoted : Promote(pool, std::move(fillings), trace)) {
      STEM_TRY(promoted.status());
      take(*std::move(promoted), true);
      ++next;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<BlockPin> Promoter::PinAwaited(BlockPool& pool, const BlockName& name, absl::Time deadline, const absl::Status& stopped) {
  BlockPin pin = pool.PinWhenFilled(name, deadline);
  if (pin.valid()) return pin;
  if (!stopped.ok() && !absl::IsAlreadyExists(stopped)) return stopped;
  const BlockPool::Presence presence = pool.Find(name);
  if (presence == BlockPool::Presence::kAbsent) return absl::NotFoundError("the block is not held");
  if (presence == BlockPool::Presence::kFilling && absl::Now() >= deadline) {
    return absl::DeadlineExceededError("whoever brings the block was not done in time");
  }
  return pin;
}

bool Promoter::IsGood(const BlockPin& pin) {
  const BlockMeta& meta = pin.meta();
  const SlotHeader expected{.name = meta.name,
                            .generation = meta.generation,
                            .length = meta.length,
                            .digest = meta.digest,
                            .publisher = meta.publisher};
  std::vector<uint64_t> chunk_hashes(ChunkCount(meta.length));
  return pin.view().header() == expected && Digest(meta.name, pin.view().payload(meta.length), chunk_hashes) == meta.digest;
}

void Promoter::Recheck(BlockPool& pool, const BlockName& name, absl::string_view reader) {
  bool good = false;
  BlockMeta meta;
  {
    const BlockPin pin = pool.Pin(name);
    if (!pin.valid()) return;
    good = IsGood(pin);
    meta = pin.meta();
  }
  if (!good) {
    Quarantine(pool, meta, "dram", absl::StrCat("a ", reader, " found it bad, and it is"));
    return;
  }
  metrics_.CountIntegrityFailure(reader);
  log_.Error("proof_disputed", {{"reader", reader}, {"key", name.key.ToHex()}});
}

bool Promoter::Quarantine(BlockPool& pool, const BlockMeta& bad, absl::string_view tier, absl::string_view why) {
  const BlockPool::Withdrawn withdrawn = pool.Quarantine(bad.name, bad.generation);
  if (withdrawn.gone.empty()) return false;
  metrics_.CountIntegrityFailure(tier);
  log_.Error("block_quarantined",
             {{"tier", tier}, {"key", bad.name.key.ToHex()}, {"why", why}, {"blocks_withdrawn", withdrawn.gone.size()}});
  if (const absl::Status removed = RemoveSpilled(withdrawn.records); !removed.ok()) {
    log_.Warn("spill_remove_failed", {{"blocks", withdrawn.records.size()}, {"why", removed.message()}});
  }
  return true;
}

absl::Status Promoter::RemoveSpilled(std::span<const SpillRecordId> gone) {
  return store_ == nullptr || gone.empty() ? absl::OkStatus() : store_->Remove(gone);
}

}  // namespace stem
