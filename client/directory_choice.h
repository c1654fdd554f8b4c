// Which directory to ask first, and which after it: the nearest that is well and exact. Plain: no gRPC, `now` from a monotonic
// clock is an argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace stem {

// Threads: one at a time.
//
// A directory that fails is down for 50 ms, then for twice as long with every further failure, to 1 s; whatever it answers
// makes it well again. Down ones come last, and after three failures in a row not at all until their time is over. One that
// labels an answer stale comes after the exact ones for 1 s. Near is: on this host; then the time that a probe takes, in powers
// of two, so that noise does not change the order; then the list's own order.
class DirectoryChoice {
 public:
  // `host`: name or address of this host as it may stand in the list; loopback addresses are on it anyway.
  explicit DirectoryChoice(std::string host) : host_(std::move(host)) {}

  // Keeps what it knows of those that stay.
  void Set(std::span<const std::string> addresses);

  // Best first.
  std::vector<std::string> Order(absl::Time now) const;
  // The same with all that share a `route`, a number that spreads well, on one directory, whoever asks: near and far count
  // nothing, nor does stale. For what must meet in one place.
  std::vector<std::string> OrderFor(uint64_t route, absl::Time now) const;

  // Those that are worth a small request of their own, so that no caller's request has to try them: down and due, stale and
  // due, or not probed for 10 s; none where there is no choice. Each is counted as begun, and is not due again for as long.
  std::vector<std::string> TakeProbes(absl::Time now);

  // Results. Addresses that are no longer in the list are ignored.
  void OnAnswer(const std::string& address, absl::Duration took, absl::Time now);
  void OnTruth(const std::string& address, bool exact, absl::Time now);
  void OnProbed(const std::string& address, absl::Duration took, absl::Time now);
  void OnFailure(const std::string& address, absl::Time now);

  // How long an answer may take before something is wrong: 8 times what is usual, at least 10 ms; 50 ms while nothing is known.
  absl::Duration Patience(const std::string& address) const;
  // It did not label its last answers stale, and is not down.
  bool MayBeExact(const std::string& address, absl::Time now) const;

  struct State {
    std::string address;
    bool down = false;
    bool stale = false;
    uint32_t failures = 0;  // in a row
    std::optional<absl::Duration> probe_time;
  };
  std::vector<State> Status(absl::Time now) const;  // in the list's order

 private:
  struct Known {
    size_t place = 0;  // in the list
    bool local = false;
    uint32_t failures = 0;
    absl::Time down_until = absl::InfinitePast();
    absl::Time stale_until = absl::InfinitePast();
    bool stale = false;  // said so last
    absl::Time probe_at = absl::InfinitePast();
    std::optional<absl::Duration> probe_time;   // smoothed
    std::optional<absl::Duration> answer_time;  // smoothed
  };

  static bool Hopeless(const Known& known, absl::Time now);
  Known* Find(const std::string& address);
  bool IsLocal(absl::string_view address) const;

  const std::string host_;
  std::map<std::string, Known> known_;
};

}  // namespace stem
