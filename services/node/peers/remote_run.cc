#include "services/node/peers/remote_run.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

// What is waited for at once, and how much longer than for its first block.
constexpr uint64_t kTogetherBytes = 1 << 20;
constexpr absl::Duration kTogetherMax = absl::Milliseconds(1);

}  // namespace

bool RemoteRun::from_ssd() const {
  const auto& flags = lease_.reply.from_ssd();
  return std::find(flags.begin(), flags.end(), true) != flags.end();
}

size_t RemoteRun::Add(size_t leased, Filling filling) {
  fillings_.push_back(std::move(filling));
  leased_.push_back(leased);
  landed_bytes_.push_back(0);
  MutexLock lock(mutex_);
  results_.push_back(mapped() ? std::optional(absl::OkStatus()) : std::nullopt);  // there is nothing to wait for
  return results_.size() - 1;
}

void RemoteRun::Start(const std::shared_ptr<RemoteRun>& run, Transport& transport, const Registration& into,
                      absl::Time deadline) {
  if (run->mapped()) return;
  const stemcache::v1::LeaseReply& reply = run->lease_.reply;
  std::vector<ReadOp> ops;
  ops.reserve(run->fillings_.size());
  for (size_t op = 0; op < run->fillings_.size(); ++op) {
    const auto leased = static_cast<int>(run->leased_[op]);
    ops.push_back({.arena = reply.arena(),
                   .offset = reply.slots(leased) * reply.slot_bytes() + run->geometry_.header_offset(),
                   .destination = run->fillings_[op].view().proved_bytes(reply.lengths(leased)),
                   .registration = &into});
  }
  if (ops.empty()) return;
  const absl::Status started =
      transport.Read(run->lease_.memory, std::move(ops), std::min(deadline, run->lease_.expiry),
                     {.on_op = [run](size_t op, absl::Status status) { run->Finish(op, std::move(status)); },
                      .on_safe = [run](const absl::Status&) {},
                      .land = [run](size_t op, std::span<std::byte> to, std::span<const std::byte> from) {
                        run->Land(op, to, from);
                      }});
  if (started.ok()) return;
  for (size_t op = 0; op < run->fillings_.size(); ++op) run->Finish(op, started);
}

void RemoteRun::Finish(size_t op, absl::Status status) {
  MutexLock lock(mutex_);
  results_[op] = std::move(status);
  if (op == awaited_) landed_.NotifyAll();
}

void RemoteRun::Land(size_t op, std::span<std::byte> to, std::span<const std::byte> from) {
  const uint64_t length = lease_.reply.lengths(static_cast<int>(leased_[op]));
  const SlotView<std::byte> slot = fillings_[op].view();
  const std::span<const std::byte> payload = slot.payload(length);
  const std::span<uint64_t> hashes = slot.chunk_hashes(ChunkCount(length));
  uint64_t& landed = landed_bytes_[op];
  for (size_t step = 0; !from.empty(); landed += step, to = to.subspan(step), from = from.subspan(step)) {
    if (landed < sizeof(SlotHeader)) {
      step = std::min<size_t>(sizeof(SlotHeader) - landed, from.size());
      std::memcpy(to.data(), from.data(), step);
      continue;
    }
    const uint64_t at = landed - sizeof(SlotHeader);
    const size_t chunk = at / kChunkBytes;
    if (at % kChunkBytes == 0 && from.size() >= kChunkBytes) {
      step = from.size() / kChunkBytes * kChunkBytes;
      CopyChunks(to.first(step), from.first(step), hashes.subspan(chunk, step / kChunkBytes));
      continue;
    }
    // A chunk that came in two pieces is hashed where it lies.
    const uint64_t chunk_end = std::min<uint64_t>((chunk + 1) * kChunkBytes, length);
    step = std::min<size_t>(chunk_end - at, from.size());
    std::memcpy(to.data(), from.data(), step);
    if (at + step == chunk_end) {
      hashes[chunk] = ChunkHash(payload.subspan(chunk * kChunkBytes, chunk_end - chunk * kChunkBytes));
    }
  }
}

bool RemoteRun::Finished(size_t op) {
  MutexLock lock(mutex_);
  return results_[op].has_value();
}

absl::Status RemoteRun::WaitFor(size_t op, absl::Time deadline) {
  const absl::Time until = std::min(deadline, lease_.expiry);
  MutexLock lock(mutex_);
  if (!results_[op].has_value()) {
    size_t last = op;
    for (uint64_t waited = bytes(op); last + 1 < results_.size() && waited + bytes(last + 1) <= kTogetherBytes; ++last) waited += bytes(last + 1);
    Await(last, std::min(until, absl::Now() + kTogetherMax));
    Await(op, until);
  }
  if (!results_[op].has_value()) return absl::DeadlineExceededError("the block did not arrive in time");
  return *results_[op];
}

void RemoteRun::Await(size_t op, absl::Time until) {
  awaited_ = op;
  while (!results_[op].has_value()) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    landed_.WaitFor(mutex_, left);
  }
  awaited_.reset();
}

absl::StatusOr<BlockPin> RemoteRun::Prove(size_t op, const BlockName& name) {
  if (mapped() && absl::Now() >= lease_.expiry) return absl::AbortedError("the lease ended before the block was copied");
  // Not where a device brought it.
  const bool hashed = landed_bytes_[op] == sizeof(SlotHeader) + lease_.reply.lengths(static_cast<int>(leased_[op]));
  return ProveLanded(lease_, leased_[op], std::move(fillings_[op]), name, hashed);
}

absl::StatusOr<BlockPin> ProveLanded(const PeerLease& lease, size_t leased, Filling filling, const BlockName& name,
                                     bool hashed) {
  const stemcache::v1::LeaseReply& reply = lease.reply;
  const auto index = static_cast<int>(leased);
  const SlotView<std::byte> slot = filling.view();
  const uint64_t length = reply.lengths(index);
  const std::span<uint64_t> chunk_hashes = slot.chunk_hashes(ChunkCount(length));
  std::optional<SlotView<const std::byte>> there;
  if (lease.mapped != nullptr) there.emplace(lease.mapped->slot(reply, index));
  const SlotHeader header = there ? there->header() : slot.header();
  if (header.magic != kSlotMagic || header.version != kSlotVersion) return absl::DataLossError("not a slot header");
  if (header.name.space != name.space) return absl::DataLossError("the slot is of another namespace");
  if (header.name.key != name.key) return absl::DataLossError("the slot is of another key");
  if (header.generation != reply.generations(index)) return absl::DataLossError("the slot is of another generation");
  if (header.length != length) return absl::DataLossError("the slot is of another length");
  uint64_t digest = 0;
  if (there) {
    digest = CopyAndDigest(slot.payload(length), there->payload(length), name, chunk_hashes);
  } else {
    digest = hashed ? DigestOfChunks(name, length, chunk_hashes) : Digest(name, slot.payload(length), chunk_hashes);
  }
  if (digest != reply.digests(index) || digest != header.digest) {
    return absl::DataLossError("the payload does not have its digest");
  }
  return std::move(filling).Commit(length, digest, header.publisher);
}

}  // namespace stem
