#include "services/node/fetch/single_flight.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace stem {
namespace {

constexpr absl::Duration kIntentMax = absl::Seconds(60);
constexpr absl::Duration kGiveUpTimeout = absl::Seconds(1);

DirectoryStub::Intent IntentOf(const NamespaceFingerprint& space, const std::vector<BlockKey>& keys, uint64_t route,
                               std::string at) {
  DirectoryStub::Intent intent{.request = {}, .route = route, .at = std::move(at)};
  intent.request.set_namespace_fingerprint(std::string(space.bytes()));
  intent.request.set_keys(PackKeys(keys));
  return intent;
}

uint32_t ToMillis(absl::Duration time) { return static_cast<uint32_t>(absl::ToInt64Milliseconds(time)); }

// From its beginning until others see it published.
absl::Duration Flight(const SingleFlight::Want& want) { return std::min(kIntentMax, want.compute * 1.5); }

}  // namespace

void SingleFlight::Ask(Want want, OnAnswer done) {
  const absl::Time now = absl::Now();
  if (want.keys.empty() || IsOwn(want, now)) return done({.verdict = Verdict::kGoOn, .directory = ""});
  const absl::Duration flight = Flight(want);
  DirectoryStub::Intent intent = IntentOf(want.space, want.keys, want.route, "");
  intent.request.set_duration_ms(std::max(1U, ToMillis(flight)));
  const absl::Time deadline = want.deadline;
  directories_.Intend(std::move(intent), deadline, [this, want = std::move(want), flight, done = std::move(done)](
                                                       const absl::StatusOr<DirectoryStub::Intended>& intended) {
    if (!intended.ok()) {
      metrics_.CountSingleFlight("unanswered");
      return done({.verdict = Verdict::kGoOn, .directory = ""});
    }
    if (intended->reply.granted()) {
      metrics_.CountSingleFlight("ours");
      Remember(want, intended->directory, flight);
      return done({.verdict = Verdict::kOurs, .directory = intended->directory});
    }
    if (intended->reply.estimate_ms() == 0) return done({.verdict = Verdict::kAgain, .directory = intended->directory});
    const absl::Duration wait = std::min(flight, (want.deadline - absl::Now()) * 7 / 8);
    if (wait < absl::Milliseconds(1)) return done({.verdict = Verdict::kGoOn, .directory = ""});
    Wait(want, intended->directory, wait, done);
  });
}

void SingleFlight::Wait(const Want& want, const std::string& directory, absl::Duration wait, OnAnswer done) {
  DirectoryStub::Intent intent = IntentOf(want.space, want.keys, want.route, directory);
  intent.request.set_wait_ms(ToMillis(wait));
  // Should the other's have ended by now, this one's begins: it is known when the answer comes.
  intent.request.set_duration_ms(std::max(1U, ToMillis(Flight(want))));
  directories_.Intend(std::move(intent), want.deadline, [this, want, done = std::move(done)](
                                                            const absl::StatusOr<DirectoryStub::Intended>& intended) {
    if (!intended.ok()) {  // that directory has gone: ask another
      metrics_.CountSingleFlight("unanswered");
      return done({.verdict = Verdict::kAgain, .directory = "", .waited = true});
    }
    if (intended->reply.granted()) {
      metrics_.CountSingleFlight("ours");
      Remember(want, intended->directory, Flight(want));
      return done({.verdict = Verdict::kOurs, .directory = intended->directory, .waited = true});
    }
    const bool ended = intended->reply.estimate_ms() == 0;
    metrics_.CountSingleFlight(ended ? "waited" : "too_long");
    done({.verdict = ended ? Verdict::kAgain : Verdict::kGoOn, .directory = intended->directory, .waited = true});
  });
}

bool SingleFlight::IsOwn(const Want& want, absl::Time now) {
  MutexLock lock(mutex_);
  const auto [begin, end] = own_.equal_range(want.session);
  return std::any_of(begin, end, [&](const auto& each) {
    const Own& own = each.second;
    return own.ends > now && own.space == want.space &&
           std::find(own.keys.begin(), own.keys.end(), want.keys.front()) != own.keys.end();
  });
}

void SingleFlight::Remember(const Want& want, const std::string& directory, absl::Duration duration) {
  const absl::Time now = absl::Now();
  MutexLock lock(mutex_);
  std::erase_if(own_, [now](const auto& each) { return each.second.ends <= now; });
  if (own_.size() >= kOwnMax) return;  // it ends by time
  own_.emplace(want.session, Own{.space = want.space, .keys = want.keys, .directory = directory, .ends = now + duration});
}

void SingleFlight::GiveUp(uint64_t session) {
  std::vector<Own> given_up;
  const absl::Time now = absl::Now();
  {
    MutexLock lock(mutex_);
    const auto [begin, end] = own_.equal_range(session);
    for (auto each = begin; each != end; ++each) {
      if (each->second.ends > now) given_up.push_back(std::move(each->second));
    }
    own_.erase(begin, end);
  }
  for (Own& own : given_up) {
    // Those that have ended by themselves are not known there any more: no harm.
    directories_.Intend(IntentOf(own.space, own.keys, 0, own.directory), now + kGiveUpTimeout,
                        [](const absl::StatusOr<DirectoryStub::Intended>&) {});
  }
}

}  // namespace stem
