#include "services/node/peers/lent_run.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "services/node/peers/remote_run.h"

namespace stem {

namespace {
constexpr absl::Duration kSlotWaitMax = absl::Milliseconds(100);  // for the spiller to free a slot
}  // namespace

LentRun::~LentRun() {
  MutexLock lock(mutex_);
  peers_.Return(lease_, corrupt_, keep_);
  reports_.Count(lease_.node, corrupt_.empty() ? PeerReports::Result::kGood : PeerReports::Result::kCorrupt);
}

void LentRun::MarkCorrupt(size_t index) {
  MutexLock lock(mutex_);
  corrupt_.push_back(loan_.blocks[index].name.key);
}

void LentRun::KeepTrace(const TraceContext& trace) {
  MutexLock lock(mutex_);
  keep_ = trace;
}

absl::Status LentRun::CopyBlock(size_t index, absl::Time deadline) const {
  const absl::Time now = absl::Now();
  if (now >= deadline) return absl::DeadlineExceededError("the deadline passed before the block was copied");
  const Block& block = loan_.blocks[index];
  const absl::Time until = std::min(deadline, now + kSlotWaitMax);
  BlockPin parent;  // it may be on its way still, by another's hand
  if (block.parent.has_value()) parent = loan_.pool->PinWhenFilled({block.name.space, *block.parent}, until);
  absl::StatusOr<Filling> filling = loan_.pool->BeginFill(block.name, block.parent, until);
  if (absl::IsAlreadyExists(filling.status())) {
    // Who else brings it may give up, and until it is there its child cannot come.
    if (loan_.pool->PinWhenFilled(block.name, until).valid()) return absl::OkStatus();
    return absl::AbortedError("another was bringing the block, and did not");
  }
  STEM_TRY(filling.status());
  if (absl::Now() >= expiry()) return absl::AbortedError("the lease ended before the block was copied");
  return ProveLanded(lease_, index, *std::move(filling), block.name).status();
}

absl::Time LentRun::expiry() const {
  MutexLock lock(mutex_);
  return expiry_;
}

void LentRun::Extend(absl::Time expiry) {
  MutexLock lock(mutex_);
  expiry_ = std::max(expiry_, expiry);
}

std::shared_ptr<LentRun> LentRuns::LendAgain(const LentRun::Loan& loan, absl::Time deadline) {
  std::vector<BlockName> names;
  names.reserve(loan.blocks.size());
  for (const LentRun::Block& block : loan.blocks) names.push_back(block.name);
  absl::StatusOr<PeerLease> lease = peers_.Lease(loan.holder, names, loan.pool->geometry(), deadline, TraceContext());
  if (!lease.ok()) return nullptr;
  const bool whole = lease->mapped != nullptr && static_cast<size_t>(lease->reply.slots_size()) == names.size();
  if (whole) return Lend(loan, *std::move(lease));
  if (!lease->reply.slots().empty()) peers_.Return(*lease, {});
  return nullptr;
}

std::shared_ptr<LentRun> LentRuns::Lend(LentRun::Loan loan, PeerLease lease) {
  auto run = std::make_shared<LentRun>(peers_, reports_, std::move(loan), std::move(lease));
  MutexLock lock(mutex_);
  runs_.push_back(run);
  return run;
}

void LentRuns::KeepHouse() {
  const absl::Time now = absl::Now();
  std::map<std::string, std::vector<std::shared_ptr<LentRun>>> due;  // by node; ends after the lock
  {
    MutexLock lock(mutex_);
    std::erase_if(runs_, [](const std::weak_ptr<LentRun>& run) { return run.expired(); });
    for (const std::weak_ptr<LentRun>& each : runs_) {
      std::shared_ptr<LentRun> run = each.lock();
      if (run == nullptr) continue;
      const absl::Duration lasts = absl::Milliseconds(run->lease().reply.duration_ms());
      if (run->expiry() - now < lasts / 2) due[run->lease().node].push_back(std::move(run));
    }
  }
  for (const auto& [node, runs] : due) {
    std::vector<uint64_t> ids;
    std::map<uint64_t, std::weak_ptr<LentRun>> by_id;  // weak: an answer that is late keeps no lease
    for (const std::shared_ptr<LentRun>& run : runs) {
      ids.push_back(run->lease().reply.lease_id());
      by_id[ids.back()] = run;
    }
    peers_.Renew(node, ids, [by_id = std::move(by_id)](uint64_t id, absl::Time expiry) {
      if (const std::shared_ptr<LentRun> run = by_id.at(id).lock()) run->Extend(expiry);
    });
  }
}

}  // namespace stem
