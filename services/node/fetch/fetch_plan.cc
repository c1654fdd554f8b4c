// Planning: how each missing position is to come.
#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "services/node/fetch/fetch.h"

namespace stem {

// Walks the chain as far as anybody holds it. Each block adds what computing it takes and costs what bringing it is expected to take; the
// walk's highest point is where to stop.
void Fetch::Appraise() {
  if (call_.block_compute == absl::ZeroDuration() || windowed()) return;  // a windowed stem cannot end just anywhere
  uint64_t block_bytes = 0;
  for (const uint32_t part : call_.chain.parts) block_bytes += session_->space().spec.part(part)->block_bytes;
  const absl::Time now = absl::Now();
  size_t block = pinned_ / parts_asked_;
  worth_blocks_ = block;
  absl::Duration gain, best_gain;
  const auto add = [&](absl::Duration bring) {
    gain += call_.block_compute - bring;
    ++block;
    if (gain < best_gain) return;
    best_gain = gain;
    worth_blocks_ = block;
  };
  while (block < blocks()) {
    bool held = true;
    absl::Duration bring;
    for (size_t position = block * parts_asked_; position < (block + 1) * parts_asked_; ++position) {
      const BlockPool::Presence presence = pool_.Find(names_[position]);
      held = held && presence != BlockPool::Presence::kAbsent;
      if (presence == BlockPool::Presence::kSsd) bring = parts_.rates.Expect(kOwnSsd, block_bytes, now);
    }
    if (!held) break;
    add(bring);
  }
  asked_from_ = block;
  if (block < blocks()) match_ = MatchFrom(block);
  if (match_.has_value() && match_->ok()) {
    const v1::MatchReply& reply = **match_;
    for (const v1::HolderRun& run : reply.runs()) {
      const v1::NodeAddress& holder = reply.holders(static_cast<int>(run.holder()));
      const bool ssd = run.tier() == v1::TIER_SSD;
      absl::Duration bring = parts_.rates.Expect(PlaceOf(holder.node(), ssd), block_bytes, now);
      if (!ssd && ReadsInPlace(holder)) bring = absl::ZeroDuration();  // nothing is brought
      for (uint32_t i = 0; i < run.count(); ++i) add(bring);
    }
  }
  if (worth_blocks_ == block) worth_blocks_ = blocks();  // all that is held
}

void Fetch::PlanLocal() {
  for (size_t index = pinned_; index < worth_end(); ++index) {
    Step step;
    const BlockPool::Presence presence = pool_.PinOrAwait(names_[index], &step.pinned, &step.awaited);
    if (presence == BlockPool::Presence::kAbsent) return;
    if (presence == BlockPool::Presence::kSsd) {
      absl::StatusOr<Filling> filling = Promoter::Begin(pool_, names_[index], slots_until_);
      if (absl::IsNotFound(filling.status())) return;
      if (filling.ok()) {
        step.from_ssd = *std::move(filling);
      } else if (!absl::IsAlreadyExists(filling.status()) || !PlanPresent(index, &step)) {
        stopped_ = CauseOf(filling.status(), call_.deadline);
        refused_why_ = RefusedReason::kNoSlot;
        return;
      }
    }
    steps_.push_back(std::move(step));
  }
}

bool Fetch::PlanPresent(size_t index, Step* step) {
  const BlockPool::Presence presence = pool_.PinOrAwait(names_[index], &step->pinned, &step->awaited);
  return presence == BlockPool::Presence::kDram || presence == BlockPool::Presence::kFilling;
}

void Fetch::PlanRemote() {
  const size_t first_block = windowed() ? 0 : planned_blocks();
  if (stopped_.has_value()) return PlanMisses(nullptr, first_block);
  if (first_block >= worth_blocks_) {
    stopped_ = v1::MISS_CAUSE_RECOMPUTE_CHEAPER;
    const bool known = match_.has_value() && match_->ok();
    return PlanMisses(known ? &**match_ : nullptr, known ? asked_from_ : first_block);
  }
  if (!match_.has_value() || asked_from_ != first_block) match_ = MatchFrom(first_block);
  const absl::StatusOr<v1::MatchReply>& reply = *match_;
  if (!reply.ok()) {
    acquired_.mutable_truth()->set_exact(false);
    stopped_ = absl::Now() >= call_.deadline ? v1::MISS_CAUSE_DEADLINE : v1::MISS_CAUSE_UNKNOWN;
    if (stopped_ == v1::MISS_CAUSE_DEADLINE) parts_.metrics.CountDeadlineMiss(Stage::kMatch);
    return PlanMisses(nullptr, first_block);
  }
  *acquired_.mutable_truth() = reply->truth();
  lend_ = MayLend(*reply);
  for (const v1::HolderRun& run : reply->runs()) {
    if (!PlanRun(*reply, run, first_block)) break;
  }
  PlanMisses(&*reply, first_block);
}

bool Fetch::ReadsInPlace(const v1::NodeAddress& holder) const {
  const std::shared_ptr<const HostPeerMemory> memory = parts_.host_peers.MemoryOf(holder, call_.deadline);
  return memory != nullptr && session_->Reads(*memory);
}

bool Fetch::MayLend(const v1::MatchReply& reply) const {
  return !windowed() && std::all_of(reply.runs().begin(), reply.runs().end(), [&](const v1::HolderRun& run) {
    return ReadsInPlace(reply.holders(static_cast<int>(run.holder())));
  });
}

bool Fetch::PlanRun(const v1::MatchReply& reply, const v1::HolderRun& run, size_t first_block) {
  const v1::NodeAddress& holder = reply.holders(static_cast<int>(run.holder()));
  const size_t first = pinned_ + steps_.size();
  const size_t end = std::min(IndexOf(first_block + run.first() + run.count()), worth_end());
  if (end <= first) return true;
  const absl::Time asked = absl::Now();
  const size_t step = trace_.Open(Stage::kLease, asked);
  absl::StatusOr<PeerLease> lease =
      parts_.peers.Lease(holder, std::span(names_).subspan(first, end - first), pool_.geometry(), call_.deadline, trace_.ContextOf(step));
  trace_.AddPiece(step, asked, absl::Now());
  NoteLease(step, holder.node(), end - first, lease);
  if (!lease.ok()) {
    parts_.log.Warn("lease_failed", {{"peer", holder.node()}, {"request", call_.request}, {"why", lease.status().message()}});
    stopped_ = CauseOf(lease.status(), call_.deadline);
    refused_why_ = RefusedReason::kPeer;
    if (stopped_ == v1::MISS_CAUSE_DEADLINE) parts_.metrics.CountDeadlineMiss(Stage::kLease);
    if (IsLate(lease.status(), asked)) parts_.peer_reports.Count(holder.node(), PeerReports::Result::kLate);
    return false;
  }
  const auto leased = static_cast<size_t>(lease->reply.slots_size());
  const v1::MissCause short_of = lease->reply.has_miss() ? lease->reply.miss().cause() : v1::MISS_CAUSE_EVICTED;
  if (lease->mapped != nullptr) session_->Offer(*lease);
  if (leased > 0 && lend_ && lease->mapped != nullptr) {
    PlanLent(holder, *std::move(lease));
  } else if (leased > 0) {
    auto remote = std::make_shared<RemoteRun>(*std::move(lease), pool_.geometry());
    runs_.push_back(remote);
    corrupt_.emplace_back();
    tallies_.push_back({.leased = asked});
    for (size_t i = 0; i < leased; ++i) {
      v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;
      if (!PlanRead(remote, i, &cause)) {
        stopped_ = cause;
        return false;
      }
    }
  }
  if (first + leased == end) return true;
  stopped_ = short_of == v1::MISS_CAUSE_UNSPECIFIED ? v1::MISS_CAUSE_EVICTED : short_of;
  refused_why_ = RefusedReason::kPeer;
  return false;
}

void Fetch::NoteLease(size_t step, const std::string& peer, size_t keys, const absl::StatusOr<PeerLease>& lease) {
  TraceStep& noted = trace_.at(step);
  noted.peer = peer;
  noted.keys += static_cast<uint32_t>(keys);
  if (!lease.ok()) return trace_.Fail(step, lease.status(), CauseOf(lease.status(), call_.deadline));
  const v1::LeaseReply& reply = lease->reply;
  const auto ssd = std::count(reply.from_ssd().begin(), reply.from_ssd().end(), true);
  if (ssd == 0) noted.tier = v1::TIER_DRAM;
  else if (ssd == reply.slots_size()) noted.tier = v1::TIER_SSD;
  noted.blocks += static_cast<uint32_t>(reply.slots_size());
  for (const uint32_t length : reply.lengths()) noted.bytes += length;
  if (reply.has_miss()) noted.cause = reply.miss().cause();
}

void Fetch::PlanLent(const v1::NodeAddress& holder, PeerLease lease) {
  const size_t first = pinned_ + steps_.size();
  const auto leased = static_cast<size_t>(lease.reply.slots_size());
  LentRun::Loan loan{.holder = holder, .pool = &pool_};
  loan.blocks.reserve(leased);
  for (size_t index = first; index < first + leased; ++index) {
    loan.blocks.push_back({.name = names_[index], .parent = ParentOf(index)});
    steps_.emplace_back().lent = true;
  }
  lent_.push_back({.first = first, .run = parts_.lent_runs.Lend(std::move(loan), std::move(lease))});
}

bool Fetch::PlanRead(const std::shared_ptr<RemoteRun>& run, size_t leased, v1::MissCause* cause) {
  const size_t index = pinned_ + steps_.size();
  Step step;
  absl::StatusOr<Filling> filling = pool_.BeginFill(names_[index], ParentOf(index), slots_until_);
  if (filling.ok()) {
    step.run = run;
    step.op = run->Add(leased, *std::move(filling));
  } else if (!absl::IsAlreadyExists(filling.status()) || !PlanPresent(index, &step)) {
    *cause = CauseOf(filling.status(), call_.deadline);
    refused_why_ = RefusedReason::kNoSlot;
    return false;
  }
  steps_.push_back(std::move(step));
  return true;
}

void Fetch::PlanMisses(const v1::MatchReply* reply, size_t first_block) {
  auto& misses = *acquired_.mutable_misses();
  const auto end = static_cast<uint32_t>(blocks());
  auto next = static_cast<uint32_t>(planned_blocks());
  // The last run that is named was cut where the rest is sooner computed.
  if (!stopped_.has_value() && reply != nullptr && next < first_block + reply->matched_blocks()) stopped_ = v1::MISS_CAUSE_RECOMPUTE_CHEAPER;
  if (stopped_.has_value() && next < end) {
    uint32_t stopped_end = next + 1;
    if (reply == nullptr) stopped_end = end;
    if (reply != nullptr && *stopped_ == v1::MISS_CAUSE_RECOMPUTE_CHEAPER) {
      stopped_end = static_cast<uint32_t>(first_block + reply->matched_blocks());
    }
    if (reply != nullptr && *stopped_ == v1::MISS_CAUSE_NODE_LOST) {  // the whole run hung on that peer
      for (const v1::HolderRun& run : reply->runs()) {
        const auto run_end = static_cast<uint32_t>(first_block + run.first() + run.count());
        if (next < run_end) {
          stopped_end = run_end;
          break;
        }
      }
    }
    AppendMiss(misses, next, stopped_end - next, *stopped_);
    next = stopped_end;
    if (reply != nullptr) {  // the directory names holders for these, but the stem ends before them
      const auto named_end = static_cast<uint32_t>(first_block + reply->matched_blocks());
      if (next < named_end) AppendMiss(misses, next, named_end - next, v1::MISS_CAUSE_UNREACHABLE);
      next = std::max(next, named_end);
    }
  }
  if (reply == nullptr) return;
  const absl::Time now = absl::Now();
  for (const v1::Miss& miss : reply->misses()) {
    for (uint32_t block = static_cast<uint32_t>(first_block) + miss.first();
         block < first_block + miss.first() + miss.count(); ++block) {
      if (block < next) continue;
      const bool unheard = miss.cause() == v1::MISS_CAUSE_COLD || miss.cause() == v1::MISS_CAUSE_UNKNOWN ||
                           miss.cause() == v1::MISS_CAUSE_INCOMPATIBLE;
      const bool soon = unheard && parts_.reservations.Reserved(NameOf(block, 0), now);
      // What this session computes itself is not `not_yet` to it.
      const bool own = ours_ && miss.cause() == v1::MISS_CAUSE_NOT_YET && causes_[block] != v1::MISS_CAUSE_UNSPECIFIED;
      const v1::MissCause cause = own ? causes_[block] : miss.cause();
      AppendMiss(misses, block, 1, soon ? v1::MISS_CAUSE_NOT_YET : cause, own ? 0 : miss.estimate_ms());
    }
  }
  const auto incompatible = [](const v1::Miss& miss) { return miss.cause() == v1::MISS_CAUSE_INCOMPATIBLE; };
  if (std::any_of(misses.begin(), misses.end(), incompatible)) {
    const auto& known_as = reply->known_as().empty() ? known_as_ : reply->known_as();
    *acquired_.mutable_difference() = FirstDifference(session_->space().spec, known_as);
  }
}

}  // namespace stem
