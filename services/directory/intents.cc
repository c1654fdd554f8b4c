#include "services/directory/intents.h"

#include <algorithm>
#include <cstring>

namespace stem {

const Intents::Claim* Intents::Find(uint64_t fingerprint) const {
  const auto claim = claims_.find(fingerprint);
  if (claim == claims_.end() || claim->second.index < intents_.at(claim->second.intent).announced) return nullptr;
  return &claim->second;
}

Intents::Outcome Intents::Intend(const IntendCall& call, absl::Time now, OnVerdict later) {
  std::vector<uint64_t> fingerprints;
  fingerprints.reserve(call.keys.size());
  for (const BlockKey& key : call.keys) fingerprints.push_back(IndexFingerprint({call.space, key}));
  Answers answers;
  Outcome outcome;
  {
    MutexLock lock(mutex_);
    ExpireLocked(now, answers);
    const Claim* const first = Find(fingerprints[0]);
    if (call.duration == absl::ZeroDuration()) {
      if (first != nullptr && intents_.at(first->intent).holder == call.requester) End(first->intent, answers);
      outcome.verdict = IntentVerdict();
    } else if (first == nullptr && claims_.contains(fingerprints[0])) {
      outcome.verdict = IntentVerdict();  // announced since the asker matched
    } else if (first == nullptr) {
      Grant(call, fingerprints, now);
      outcome.verdict = IntentVerdict{.granted = true, .left = absl::ZeroDuration(), .holder = {}};
    } else {
      const uint64_t id = first->intent;
      Intent& intent = intents_.at(id);
      if (call.wait == absl::ZeroDuration() || waiters_.size() >= kWaitersMax) {
        outcome.verdict = IntentVerdict{.granted = false, .left = intent.ends - now, .holder = intent.holder};
      } else {
        size_t last = first->index;
        for (const uint64_t each : fingerprints) {
          const Claim* const claim = Find(each);
          if (claim == nullptr || claim->intent != id) break;
          last = claim->index;
        }
        outcome.ticket = ++last_id_;
        intent.waiters.emplace(last, outcome.ticket);
        untils_.emplace(now + call.wait, outcome.ticket);
        waiters_.emplace(outcome.ticket, Waiter{.intent = id, .index = last, .until = now + call.wait, .later = std::move(later)});
      }
    }
  }
  Deliver(answers);
  return outcome;
}

void Intents::Grant(const IntendCall& call, const std::vector<uint64_t>& fingerprints, absl::Time now) {
  if (intents_.size() >= kIntentsMax || claims_.size() + fingerprints.size() > kClaimsMax) return;
  const uint64_t id = ++last_id_;
  Intent intent{.holder = call.requester, .fingerprints = {}, .ends = now + call.duration, .announced = 0, .waiters = {}};
  for (const uint64_t each : fingerprints) {
    if (Find(each) != nullptr) continue;  // another computes that one
    claims_[each] = {.intent = id, .index = intent.fingerprints.size()};
    intent.fingerprints.push_back(each);
  }
  ends_.emplace(intent.ends, id);
  intents_.emplace(id, std::move(intent));
  live_.store(intents_.size(), std::memory_order_relaxed);
}

bool Intents::Withdraw(uint64_t ticket) {
  MutexLock lock(mutex_);
  const auto waiter = waiters_.find(ticket);
  if (waiter == waiters_.end()) return false;
  intents_.at(waiter->second.intent).waiters.erase({waiter->second.index, ticket});
  untils_.erase({waiter->second.until, ticket});
  waiters_.erase(waiter);
  return true;
}

void Intents::OnAdded(const NamespaceFingerprint& space, absl::string_view keys) {
  Answers answers;
  {
    MutexLock lock(mutex_);
    for (; keys.size() >= sizeof(BlockKey); keys.remove_prefix(sizeof(BlockKey))) {
      BlockName name{.space = space, .key = {}};
      std::memcpy(&name.key, keys.data(), sizeof(BlockKey));
      const Claim* const claim = Find(IndexFingerprint(name));
      if (claim == nullptr) continue;
      const uint64_t id = claim->intent;
      Intent& intent = intents_.at(id);
      intent.announced = claim->index + 1;
      if (intent.announced == intent.fingerprints.size()) {
        End(id, answers);
        continue;
      }
      while (!intent.waiters.empty() && intent.waiters.begin()->first < intent.announced) {
        Answer(intent.waiters.begin()->second, absl::ZeroDuration(), answers);
      }
    }
  }
  Deliver(answers);
}

void Intents::OnGone(const std::string& node) {
  Answers answers;
  {
    MutexLock lock(mutex_);
    for (auto next = intents_.begin(); next != intents_.end();) {
      const auto each = next++;
      if (each->second.holder == node) End(each->first, answers);
    }
  }
  Deliver(answers);
}

absl::Time Intents::Expire(absl::Time now) {
  Answers answers;
  absl::Time next = absl::InfiniteFuture();
  {
    MutexLock lock(mutex_);
    ExpireLocked(now, answers);
    if (!ends_.empty()) next = std::min(next, ends_.begin()->first);
    if (!untils_.empty()) next = std::min(next, untils_.begin()->first);
  }
  Deliver(answers);
  return next;
}

void Intents::EndAll() {
  Answers answers;
  {
    MutexLock lock(mutex_);
    while (!intents_.empty()) End(intents_.begin()->first, answers);
  }
  Deliver(answers);
}

std::optional<absl::Duration> Intents::LeftFor(const BlockName& name, absl::Time now) const {
  MutexLock lock(mutex_);
  const Claim* const claim = Find(IndexFingerprint(name));
  if (claim == nullptr) return std::nullopt;
  const absl::Duration left = intents_.at(claim->intent).ends - now;
  return left > absl::ZeroDuration() ? std::optional(left) : std::nullopt;
}

Intents::Counts Intents::counts() const {
  MutexLock lock(mutex_);
  return {.intents = intents_.size(), .claims = claims_.size(), .waiters = waiters_.size()};
}

void Intents::End(uint64_t id, Answers& answers) {
  const auto intent = intents_.find(id);
  while (!intent->second.waiters.empty()) {
    Answer(intent->second.waiters.begin()->second, absl::ZeroDuration(), answers);
  }
  for (const uint64_t each : intent->second.fingerprints) {
    const auto claim = claims_.find(each);
    if (claim != claims_.end() && claim->second.intent == id) claims_.erase(claim);
  }
  ends_.erase({intent->second.ends, id});
  intents_.erase(intent);
  live_.store(intents_.size(), std::memory_order_relaxed);
}

void Intents::Answer(uint64_t ticket, absl::Duration left, Answers& answers) {
  const auto waiter = waiters_.find(ticket);
  Intent& intent = intents_.at(waiter->second.intent);
  answers.emplace_back(std::move(waiter->second.later),
                       IntentVerdict{.granted = false, .left = left, .holder = intent.holder});
  intent.waiters.erase({waiter->second.index, ticket});
  untils_.erase({waiter->second.until, ticket});
  waiters_.erase(waiter);
}

void Intents::ExpireLocked(absl::Time now, Answers& answers) {
  while (!ends_.empty() && ends_.begin()->first <= now) End(ends_.begin()->second, answers);
  while (!untils_.empty() && untils_.begin()->first <= now) {
    const uint64_t ticket = untils_.begin()->second;
    Answer(ticket, intents_.at(waiters_.at(ticket).intent).ends - now, answers);
  }
}

void Intents::Deliver(const Answers& answers) {
  for (const auto& [later, verdict] : answers) later(verdict);
}

}  // namespace stem
