#include "services/runtime/etcd_registration.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/status.h"
#include "services/runtime/fleet_values.h"

namespace stem {
namespace {

constexpr absl::Duration kRetryFirst = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);

}  // namespace

EtcdRegistration::EtcdRegistration(Options options, EtcdClient& client, Logger& log)
    : options_(std::move(options)), client_(client), log_(log), thread_([this] { Run(); }) {}

EtcdRegistration::~EtcdRegistration() {
  stop_.Set();
  thread_.join();
}

void EtcdRegistration::SeenGone(int64_t revision) {
  gone_at_ = revision;
  stop_.Nudge();
}

void EtcdRegistration::Run() {
  Backoff backoff(kRetryFirst, kRetryMax);
  bool told = false;
  while (!stop_.IsSet()) {
    const absl::Status status = Hold();
    if (registered_at_.exchange(0) > 0) {
      backoff.Reset();
      told = false;
    }
    if (stop_.IsSet()) break;
    if (!told) log_.Warn("fleet_not_registered", {{"key", options_.key}, {"why", status.message()}});
    told = true;
    stop_.WaitFor(backoff.Next());
  }
  if (lease_ != 0 && answered_) (void)client_.RevokeLease(lease_);  // else it ends by itself
}

absl::Status EtcdRegistration::Hold() {
  if (lease_ == 0) {
    STEM_ASSIGN(const EtcdLease lease, client_.GrantLease(options_.lease));
    lease_ = lease.id;
  }
  if (const absl::Status claimed = Claim(lease_); !claimed.ok()) {
    if (absl::IsNotFound(claimed)) lease_ = 0;
    return claimed;
  }
  log_.Info("fleet_registered", {{"key", options_.key}, {"lease", absl::StrFormat("%x", lease_)}});
  answered_ = true;
  while (stop_.WaitFor(options_.lease / (answered_ ? 3 : 10))) {
    if (gone_at_ > registered_at_) return absl::AbortedError("the key was deleted");
    const absl::Status alive = client_.KeepAlive(lease_);
    if (absl::IsNotFound(alive)) {
      lease_ = 0;
      return alive;
    }
    // While etcd does not answer no lease of its ends either: ask until it does.
    if (answered_ && !alive.ok()) log_.Warn("fleet_lease_not_renewed", {{"why", alive.message()}});
    answered_ = alive.ok();
  }
  return absl::OkStatus();
}

absl::Status EtcdRegistration::Claim(int64_t lease) {
  STEM_ASSIGN(const std::optional<EtcdEntry> found, client_.Get(options_.key));
  if (found.has_value() && registered_before_) {
    const absl::StatusOr<FleetMember> other = ParseMember(options_.self.name, found->value);
    if (other.ok() && other->incarnation != options_.self.incarnation) {
      return absl::FailedPreconditionError(absl::StrCat("a younger process at ", other->address, " has this name; give each its own"));
    }
  }
  STEM_ASSIGN(const int64_t revision, client_.PutIf({.key = options_.key,
                                                     .value = FormatMember(options_.self),
                                                     .mod_revision = found.has_value() ? found->mod_revision : 0},
                                                    lease));
  registered_before_ = true;
  registered_at_ = revision;
  return absl::OkStatus();
}

}  // namespace stem
