// A run of slots that a peer on this host leased to this node, and that a client of this node reads in place: no byte of it is copied to
// answer the client. The lease is renewed for as long as the run lives, and given back with its end.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "services/node/peers/peer_reports.h"
#include "services/node/peers/peers.h"
#include "storage/pool/block_pool.h"

namespace stem {

// Held by the acquire that it serves, and by the copier. Threads: any.
class LentRun {
 public:
  struct Block {
    BlockName name;
    std::optional<BlockKey> parent;
  };

  // What was lent, and by whom: enough to lease it again.
  struct Loan {
    stemcache::v1::NodeAddress holder;
    BlockPool* pool = nullptr;  // of this node, for copies; borrowed
    std::vector<Block> blocks;  // a run of one chain
  };

  // `lease`: of the loan's blocks, one slot each; mapped. Borrows both references.
  LentRun(Peers& peers, PeerReports& reports, Loan loan, PeerLease lease)
      : peers_(peers), reports_(reports), loan_(std::move(loan)), lease_(std::move(lease)), expiry_(lease_.expiry) {}
  ~LentRun();
  LentRun(const LentRun&) = delete;
  LentRun& operator=(const LentRun&) = delete;

  const PeerLease& lease() const { return lease_; }
  const Loan& loan() const { return loan_; }
  const std::vector<Block>& blocks() const { return loan_.blocks; }

  // A reader's copy of block `index` failed its proof: the peer will be told, and look at its own.
  void MarkCorrupt(size_t index);

  // The peer keeps its spans of this trace when the lease goes back.
  void KeepTrace(const TraceContext& trace);

  // Copies block `index` into the pool, proved. OK too when the pool has it. Waits up to 100 ms for a slot or for who else brings it, and not
  // beyond `deadline`. Errors: DeadlineExceeded, those of BlockPool::BeginFill and of ProveLanded.
  absl::Status CopyBlock(size_t index, absl::Time deadline) const;

  absl::Time expiry() const;
  void Extend(absl::Time expiry);

 private:
  Peers& peers_;
  PeerReports& reports_;
  const Loan loan_;
  const PeerLease lease_;
  mutable Mutex mutex_;
  absl::Time expiry_ ABSL_GUARDED_BY(mutex_);
  std::vector<BlockKey> corrupt_ ABSL_GUARDED_BY(mutex_);
  TraceContext keep_ ABSL_GUARDED_BY(mutex_);
};

// Keeps the leases of lent runs alive. Threads: any.
class LentRuns {
 public:
  LentRuns(Peers& peers, PeerReports& reports) : peers_(peers), reports_(reports) {}

  std::shared_ptr<LentRun> Lend(LentRun::Loan loan, PeerLease lease);
  // Leases the loan's blocks once more. Null when its holder has not all of them any more, or does not answer by `deadline`.
  std::shared_ptr<LentRun> LendAgain(const LentRun::Loan& loan, absl::Time deadline);
  // Renews what has used up half of its time. To be called several times per lease.
  void KeepHouse();

 private:
  Peers& peers_;
  PeerReports& reports_;
  Mutex mutex_;
  std::vector<std::weak_ptr<LentRun>> runs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
