#include "client/directory_choice.h"

#include <algorithm>
#include <bit>
#include <tuple>

#include "absl/strings/match.h"

namespace stem {
namespace {

constexpr absl::Duration kDownMin = absl::Milliseconds(50);
constexpr absl::Duration kDownMax = absl::Seconds(1);
constexpr absl::Duration kStaleFor = absl::Seconds(1);
constexpr absl::Duration kProbeEvery = absl::Seconds(10);
constexpr absl::Duration kProbeAgain = absl::Seconds(1);  // one that was begun and of which nothing was heard
constexpr absl::Duration kPatienceMin = absl::Milliseconds(10);
constexpr absl::Duration kPatienceUnknown = absl::Milliseconds(50);
constexpr uint32_t kFailuresTolerated = 2;
constexpr int kPatienceFactor = 8;

void Smooth(std::optional<absl::Duration>& time, absl::Duration took) {
  time = time.has_value() ? *time + (took - *time) / 8 : took;
}

// The same for every process that has the same list.
uint64_t Rendezvous(absl::string_view address, uint64_t route) {
  uint64_t hash = route ^ 0xCBF29CE484222325ULL;
  for (const char c : address) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
  hash ^= hash >> 32;
  return hash * 0x9E3779B97F4A7C15ULL;
}

}  // namespace

bool DirectoryChoice::IsLocal(absl::string_view address) const {
  const size_t colon = address.rfind(':');
  const absl::string_view host = address.substr(0, colon);
  return absl::StartsWith(host, "127.") || host == "localhost" || host == "[::1]" || (!host_.empty() && host == host_);
}

void DirectoryChoice::Set(std::span<const std::string> addresses) {
  std::map<std::string, Known> known;
  for (const std::string& address : addresses) {
    const auto [it, fresh] = known.try_emplace(address);
    if (!fresh) continue;  // named twice
    if (const Known* const before = Find(address); before != nullptr) it->second = *before;
    it->second.place = known.size() - 1;
    it->second.local = IsLocal(address);
  }
  known_.swap(known);
}

std::vector<std::string> DirectoryChoice::Order(absl::Time now) const {
  using Rank = std::tuple<bool, bool, bool, int, size_t, const std::string*>;
  std::vector<Rank> ranks;
  for (const auto& [address, known] : known_) {
    if (Hopeless(known, now)) continue;
    int distance = 64;  // not probed yet
    if (known.probe_time.has_value()) {
      const int64_t micros = std::max<int64_t>(0, absl::ToInt64Microseconds(*known.probe_time));
      distance = static_cast<int>(std::bit_width(static_cast<uint64_t>(micros)));
    }
    ranks.emplace_back(known.failures > 0, now < known.stale_until, !known.local, distance, known.place, &address);
  }
  std::sort(ranks.begin(), ranks.end());
  std::vector<std::string> order;
  for (const Rank& rank : ranks) order.push_back(*std::get<5>(rank));
  return order;
}

std::vector<std::string> DirectoryChoice::OrderFor(uint64_t route, absl::Time now) const {
  std::vector<std::tuple<bool, uint64_t, const std::string*>> ranks;
  for (const auto& [address, known] : known_) {
    if (!Hopeless(known, now)) ranks.emplace_back(known.failures > 0, Rendezvous(address, route), &address);
  }
  std::sort(ranks.begin(), ranks.end());
  std::vector<std::string> order;
  for (const auto& rank : ranks) order.push_back(*std::get<2>(rank));
  return order;
}

std::vector<std::string> DirectoryChoice::TakeProbes(absl::Time now) {
  std::vector<std::string> due;
  if (known_.size() < 2) return due;
  for (auto& [address, known] : known_) {
    if (now < known.probe_at || now < known.down_until) continue;
    known.probe_at = now + kProbeAgain;
    due.push_back(address);
  }
  return due;
}

void DirectoryChoice::OnAnswer(const std::string& address, absl::Duration took, absl::Time now) {
  Known* const known = Find(address);
  if (known == nullptr) return;
  known->failures = 0;
  known->down_until = std::min(known->down_until, now);
  Smooth(known->answer_time, took);
}

void DirectoryChoice::OnTruth(const std::string& address, bool exact, absl::Time now) {
  Known* const known = Find(address);
  if (known == nullptr) return;
  known->stale = !exact;
  known->stale_until = exact ? absl::InfinitePast() : now + kStaleFor;
  if (!exact) known->probe_at = std::min(known->probe_at, known->stale_until);
}

void DirectoryChoice::OnProbed(const std::string& address, absl::Duration took, absl::Time now) {
  Known* const known = Find(address);
  if (known == nullptr) return;
  known->failures = 0;
  known->down_until = std::min(known->down_until, now);
  known->probe_at = now + kProbeEvery;
  Smooth(known->probe_time, took);
}

void DirectoryChoice::OnFailure(const std::string& address, absl::Time now) {
  Known* const known = Find(address);
  if (known == nullptr) return;
  known->failures = std::min(known->failures + 1, 16U);
  known->down_until = now + std::min(kDownMax, kDownMin * (1 << (known->failures - 1)));
  known->probe_at = known->down_until;
}

absl::Duration DirectoryChoice::Patience(const std::string& address) const {
  const auto found = known_.find(address);
  if (found == known_.end() || !found->second.answer_time.has_value()) return kPatienceUnknown;
  return std::max(kPatienceMin, *found->second.answer_time * kPatienceFactor);
}

bool DirectoryChoice::MayBeExact(const std::string& address, absl::Time now) const {
  const auto found = known_.find(address);
  return found != known_.end() && now >= found->second.stale_until && now >= found->second.down_until &&
         found->second.failures == 0;
}

std::vector<DirectoryChoice::State> DirectoryChoice::Status(absl::Time now) const {
  std::vector<State> status(known_.size());
  for (const auto& [address, known] : known_) {
    status[known.place] = {.address = address,
                           .down = known.failures > 0 || now < known.down_until,
                           .stale = known.stale,
                           .failures = known.failures,
                           .probe_time = known.probe_time};
  }
  return status;
}

bool DirectoryChoice::Hopeless(const Known& known, absl::Time now) {
  return known.failures > kFailuresTolerated && now < known.down_until;
}

DirectoryChoice::Known* DirectoryChoice::Find(const std::string& address) {
  const auto found = known_.find(address);
  return found == known_.end() ? nullptr : &found->second;
}

}  // namespace stem
