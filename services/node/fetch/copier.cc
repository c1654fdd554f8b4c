#include "services/node/fetch/copier.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace stem {
namespace {

// The index of `name`, or how many blocks there are.
size_t IndexOf(const std::vector<LentRun::Block>& blocks, const BlockName& name) {
  const auto found = std::find_if(blocks.begin(), blocks.end(), [&](const LentRun::Block& block) { return block.name == name; });
  return static_cast<size_t>(found - blocks.begin());
}

bool Holds(const std::vector<LentRun::Block>& blocks, const BlockName& name) { return IndexOf(blocks, name) < blocks.size(); }

}  // namespace

Copier::Copier(Options options, LentRuns& lent_runs, NodeMetrics& metrics, Logger& log)
    : options_(options), lent_runs_(lent_runs), metrics_(metrics), log_(log) {
  thread_ = std::thread([this] { Run(); });
}

Copier::~Copier() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void Copier::Add(std::shared_ptr<LentRun> run) {
  const BlockPool* const pool = run->loan().pool;
  size_t blocks = run->blocks().size();
  std::vector<std::shared_ptr<LentRun>> put_off;  // ends after the lock
  MutexLock lock(mutex_);
  for (const Waiting& each : waiting_) blocks += each.run->loan().pool == pool ? each.run->blocks().size() : 0;
  // Oldest first, and only its own pool's: trust groups do not press each other.
  for (auto it = waiting_.begin(); it != waiting_.end() && blocks > pool->slots() / options_.pool_share;) {
    if (it->run->loan().pool != pool) {
      ++it;
      continue;
    }
    blocks -= it->run->blocks().size();
    metrics_.CountCopies("put_off", it->run->blocks().size());
    Remember(it->run->loan());
    put_off.push_back(std::move(it->run));
    it = waiting_.erase(it);
  }
  waiting_.push_back({.run = std::move(run), .since = absl::Now()});
  changed_.NotifyAll();
}

void Copier::Remember(const LentRun::Loan& loan) {
  loans_blocks_ += loan.blocks.size();
  loans_.push_back(loan);
  while (loans_blocks_ > options_.loans_blocks_max) {
    loans_blocks_ -= loans_.front().blocks.size();
    loans_.pop_front();
  }
}

bool Copier::Knows(const BlockName& name) {
  MutexLock lock(mutex_);
  return std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& each) { return Holds(each.run->blocks(), name); }) ||
         std::any_of(loans_.begin(), loans_.end(), [&](const LentRun::Loan& each) { return Holds(each.blocks, name); });
}

std::shared_ptr<LentRun> Copier::Find(const BlockName& name, absl::Time deadline) {
  LentRun::Loan loan;
  {
    MutexLock lock(mutex_);
    for (const Waiting& each : waiting_) {
      if (Holds(each.run->blocks(), name)) return each.run;
    }
    const auto known =
        std::find_if(loans_.rbegin(), loans_.rend(), [&](const LentRun::Loan& each) { return Holds(each.blocks, name); });
    if (known == loans_.rend()) return nullptr;
    loan = *known;
  }
  return lent_runs_.LendAgain(loan, std::min(deadline, absl::Now() + options_.lease_wait_max));
}

bool Copier::CopyNow(const BlockName& name, absl::Time deadline) {
  // From the last run to that whose parent is here.
  std::vector<std::pair<std::shared_ptr<LentRun>, size_t>> runs;  // and the last block that is wanted of each
  std::optional<BlockName> wanted = name;
  while (wanted.has_value() && runs.size() < options_.runs_now_max) {
    std::shared_ptr<LentRun> run = Find(*wanted, deadline);
    if (run == nullptr) break;
    const std::optional<BlockKey> parent = run->blocks().front().parent;
    const size_t last = IndexOf(run->blocks(), *wanted);
    wanted.reset();
    if (parent.has_value() && run->loan().pool->Find({name.space, *parent}) == BlockPool::Presence::kAbsent) wanted = {name.space, *parent};
    runs.emplace_back(std::move(run), last);
  }
  for (auto it = runs.rbegin(); it != runs.rend(); ++it) {
    for (size_t i = 0; i <= it->second; ++i) {
      if (!CopyOne(*it->first, i, deadline)) return false;
    }
  }
  return !runs.empty();
}

bool Copier::MayCopy(absl::Time since) const {
  const absl::Time now = absl::Now();
  return now - since >= options_.patience ||
         now - absl::FromUnixNanos(last_fetch_.load(std::memory_order_relaxed)) >= options_.quiet;
}

bool Copier::CopyOne(const LentRun& run, size_t index, absl::Time deadline) {
  const absl::Status copied = run.CopyBlock(index, deadline);
  metrics_.CountCopies(copied.ok() ? "copied" : "failed", copied.ok() ? 1 : run.blocks().size() - index);
  if (!copied.ok()) log_.Debug("copy_given_up", {{"peer", run.lease().node}, {"block", index}, {"why", copied.message()}});
  return copied.ok();
}

void Copier::Run() {
  while (true) {
    std::shared_ptr<LentRun> run;  // ends without the lock
    size_t index = 0;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && waiting_.empty()) changed_.Wait(mutex_);
      if (stopping_) return;
      if (!MayCopy(waiting_.front().since)) {
        changed_.WaitFor(mutex_, options_.quiet / 2);
        continue;
      }
      run = waiting_.front().run;
      index = waiting_.front().next++;
    }
    const bool copied = CopyOne(*run, index, absl::InfiniteFuture());
    if (copied && index + 1 < run->blocks().size()) continue;
    MutexLock lock(mutex_);
    if (!copied) Remember(run->loan());
    const auto done = std::find_if(waiting_.begin(), waiting_.end(), [&](const Waiting& each) { return each.run == run; });
    if (done == waiting_.end()) continue;
    waiting_.erase(done);
  }
}

}  // namespace stem
