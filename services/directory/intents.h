// Single flight: who computes which stem right now, and who waits for it. Best effort: bounded, forgotten after a time limit,
// never a reason to refuse anything. Plain: no gRPC, `now` from a monotonic clock is an argument.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/validate.h"

namespace stem {

// What a node is told of its intent.
struct IntentVerdict {
  bool granted = false;   // it computes, others wait
  absl::Duration left;    // when not granted: of the other's time; zero = that has ended, match again
  std::string holder;     // who computes; empty when granted
};

// Threads: any.
//
// An intent ends when its last key is announced by any node, at its time limit, when its node gives it up, or when that node's
// stream ends. Who waits is answered then, or earlier: as soon as the last of those keys that it shares with the intent is
// announced, as chains are closed on a node. An intent that finds no room is granted and not remembered.
class Intents {
 public:
  static constexpr size_t kIntentsMax = 4096;
  static constexpr size_t kClaimsMax = 1 << 18;  // keys in all intents, some 40 bytes each
  static constexpr size_t kWaitersMax = 65536;

  // Called outside any lock, once, by the call that ends the wait; must not block.
  using OnVerdict = std::function<void(const IntentVerdict&)>;

  struct Outcome {
    std::optional<IntentVerdict> verdict;  // absent = waits; `later` will be called
    uint64_t ticket = 0;                   // of the wait
  };
  // Granted when nobody computes the call's first key; when that has been announced while its intent goes on, the asker is to
  // match again. Waits only when call.wait is above zero and there is room.
  Outcome Intend(const IntendCall& call, absl::Time now, OnVerdict later);
  // The waiter has gone. False when it was answered, or is being answered now.
  bool Withdraw(uint64_t ticket);

  // False: no intent lives, and the rest need not be called. One relaxed load.
  bool live() const { return live_.load(std::memory_order_relaxed) > 0; }
  // A node has announced these packed keys.
  void OnAdded(const NamespaceFingerprint& space, absl::string_view keys);
  // The node's stream ended: nothing that it computes would be heard.
  void OnGone(const std::string& node);
  // Ends what is past its time. Returns when it should be called next.
  absl::Time Expire(absl::Time now);
  // Answers everyone; for a directory that stops.
  void EndAll();

  // Time left of the intent to compute `name`, if there is one and it is not announced yet.
  std::optional<absl::Duration> LeftFor(const BlockName& name, absl::Time now) const;

  struct Counts {
    size_t intents = 0;
    size_t claims = 0;
    size_t waiters = 0;
  };
  Counts counts() const;

 private:
  struct Intent {
    std::string holder;
    std::vector<uint64_t> fingerprints;  // chain order
    absl::Time ends;
    size_t announced = 0;                           // leading keys
    std::set<std::pair<size_t, uint64_t>> waiters;  // last key waited for, ticket
  };
  struct Claim {
    uint64_t intent = 0;
    size_t index = 0;  // in its fingerprints
  };
  struct Waiter {
    uint64_t intent = 0;
    size_t index = 0;
    absl::Time until;
    OnVerdict later;
  };
  using Answers = std::vector<std::pair<OnVerdict, IntentVerdict>>;

  // The live claim on a key that is not announced, or null.
  const Claim* Find(uint64_t fingerprint) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Grant(const IntendCall& call, const std::vector<uint64_t>& fingerprints, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void End(uint64_t id, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answer(uint64_t ticket, absl::Duration left, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ExpireLocked(absl::Time now, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Deliver(const Answers& answers);

  mutable Mutex mutex_;
  std::atomic<size_t> live_{0};  // intents
  absl::flat_hash_map<uint64_t, Claim> claims_ ABSL_GUARDED_BY(mutex_);  // by index fingerprint
  std::map<uint64_t, Intent> intents_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, Waiter> waiters_ ABSL_GUARDED_BY(mutex_);  // by ticket
  std::set<std::pair<absl::Time, uint64_t>> ends_ ABSL_GUARDED_BY(mutex_);    // of intents
  std::set<std::pair<absl::Time, uint64_t>> untils_ ABSL_GUARDED_BY(mutex_);  // of waiters
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
