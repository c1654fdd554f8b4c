// A leased run of a peer's blocks while their bytes are on the way into this node's slots.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "services/node/peers/peers.h"
#include "storage/pool/block_pool.h"
#include "storage/transport/transport.h"

namespace stem {

// Slot number `leased` of `lease`: header and payload against `name` and what the lease promised, copied into `filling` first when the
// lease is mapped; then the block is this node's. Errors: DataLoss (which field), FailedPrecondition (its parent left).
// `hashed`: the slot's chunk hashes were taken of the payload as it landed.
absl::StatusOr<BlockPin> ProveLanded(const PeerLease& lease, size_t leased, Filling filling, const BlockName& name,
                                     bool hashed = false);

// Shared by the fetch and the transport's callbacks: the fillings of reads that failed stay out of use until the transport
// says that nothing writes them any more (law 6). Add, Start and Prove are the fetch's; an op is the index of an Add.
class RemoteRun {
 public:
  RemoteRun(PeerLease lease, const SlotGeometry& geometry) : lease_(std::move(lease)), geometry_(geometry) {}

  const PeerLease& lease() const { return lease_; }

  // The lease's slot number `leased` is to land in `filling`. Returns its op.
  size_t Add(size_t leased, Filling filling);

  // Begins every read; what cannot begin is finished with the reason. `into`: where the fillings lie. Memory of a peer on this host
  // is not read before Prove.
  static void Start(const std::shared_ptr<RemoteRun>& run, Transport& transport, const Registration& into,
                    absl::Time deadline);

  // See Filling::GiveUp. Not after Prove.
  bool GiveUp(size_t op) { return fillings_[op].GiveUp(); }

  bool Finished(size_t op);
  // How the read ended; DeadlineExceeded when it has not by `deadline` or the lease's end. Waits a little for small ones behind it, too: a wake-up
  // for each, and what follows from it, would take longer than their bytes. One caller at a time.
  absl::Status WaitFor(size_t op, absl::Time deadline);

  bool from_ssd(size_t op) const { return lease_.reply.from_ssd(static_cast<int>(leased_[op])); }

  uint64_t bytes(size_t op) const { return lease_.reply.lengths(static_cast<int>(leased_[op])); }

  // True when any of the lease's slots were promoted for it.
  bool from_ssd() const;
  // True where Prove copies, out of a peer's memory on this host.
  bool mapped() const { return lease_.mapped != nullptr; }

  // ProveLanded of what came. Once per op, after WaitFor returned OK. Errors: those of ProveLanded, Aborted (mapped, and the lease
  // has ended).
  absl::StatusOr<BlockPin> Prove(size_t op, const BlockName& name);

 private:
  void Finish(size_t op, absl::Status status);
  // The next bytes of an op, on the transport's thread: copies them into its slot and hashes the chunks in the same pass.
  void Land(size_t op, std::span<std::byte> to, std::span<const std::byte> from);

  // Until `op` is finished, or `until`.
  void Await(size_t op, absl::Time until) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PeerLease lease_;
  const SlotGeometry geometry_;
  std::vector<Filling> fillings_;  // by op; moved out once landed
  std::vector<size_t> leased_;     // by op: index into the lease's slots
  std::vector<uint64_t> landed_bytes_;  // by op, of header and payload; the transport's until the op is finished
  Mutex mutex_;
  CondVar landed_;
  std::vector<std::optional<absl::Status>> results_ ABSL_GUARDED_BY(mutex_);  // by op
  std::optional<size_t> awaited_ ABSL_GUARDED_BY(mutex_);  // op whose end wakes who waits
};

}  // namespace stem
