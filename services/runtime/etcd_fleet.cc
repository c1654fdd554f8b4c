#include "services/runtime/etcd_fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/status.h"
#include "services/runtime/clock.h"

namespace stem {
namespace {

constexpr absl::Duration kCallMax = absl::Seconds(2);
constexpr absl::Duration kRetryFirst = absl::Milliseconds(100);
constexpr absl::Duration kRetryMax = absl::Seconds(2);

}  // namespace

EtcdFleet::EtcdFleet(const FleetOptions& options, FleetSnapshot seed, Logger& log)
    : options_(options),
      log_(log),
      client_(options.etcd, kCallMax),
      state_(options.prefix, std::move(seed)),
      snapshot_(state_.Snapshot()),
      watcher_([this] { Run(); }) {}

EtcdFleet::~EtcdFleet() {
  Leave();
  stop_.Set();
  client_.Shutdown();
  watcher_.join();
}

void EtcdFleet::Leave() {
  std::unique_ptr<EtcdRegistration> registration;
  {
    MutexLock lock(mutex_);
    leaving_ = true;
    registration.swap(registration_);
    changed_.NotifyAll();
  }
  if (teller_.joinable()) teller_.join();
  registration.reset();
}

bool EtcdFleet::WaitForFirst(absl::Duration time) {
  const absl::Time end = MonotonicNow() + time;
  MutexLock lock(mutex_);
  while (snapshot_->revision == 0) {
    const absl::Duration left = end - MonotonicNow();
    if (left <= absl::ZeroDuration()) return false;
    changed_.WaitFor(mutex_, left);
  }
  return true;
}

std::shared_ptr<const FleetSnapshot> EtcdFleet::snapshot() const {
  MutexLock lock(mutex_);
  return snapshot_;
}

void EtcdFleet::Follow(OnChange on_change) {
  STEM_CHECK(!teller_.joinable());
  teller_ = std::thread([this, tell = std::move(on_change)] { Tell(tell); });
}

void EtcdFleet::RegisterNode(const FleetMember& self) { Register(NodeKey(options_.prefix, self.name), self); }

void EtcdFleet::RegisterDirectory(const FleetMember& self) { Register(DirectoryKey(options_.prefix, self.address), self); }

void EtcdFleet::Register(std::string key, const FleetMember& self) {
  MutexLock lock(mutex_);
  STEM_CHECK(registration_ == nullptr);
  registered_key_ = key;
  registration_ = std::make_unique<EtcdRegistration>(
      EtcdRegistration::Options{.key = std::move(key), .self = self, .lease = options_.lease}, client_, log_);
}

FleetHealth EtcdFleet::health() const {
  MutexLock lock(mutex_);
  return {.connected = connected_,
          .registered = registration_ != nullptr && registration_->registered(),
          .revision = snapshot_->revision,
          .directories = snapshot_->directories.size(),
          .nodes = snapshot_->nodes.size(),
          .refused = refused_};
}

void EtcdFleet::Run() {
  Backoff backoff(kRetryFirst, kRetryMax);
  bool told = false;
  while (!stop_.IsSet()) {
    const absl::Status status = ReadAndWatch();
    bool was_connected = false;
    {
      MutexLock lock(mutex_);
      was_connected = std::exchange(connected_, false);
    }
    if (stop_.IsSet()) break;
    if (absl::IsOutOfRange(status)) {
      log_.Info("fleet_read_anew", {{"prefix", options_.prefix}, {"why", status.message()}});
      revision_ = 0;
    } else if (was_connected || !told) {
      log_.Warn("fleet_frozen", {{"revision", revision_}, {"why", status.message()}});
      told = true;
    }
    if (was_connected) backoff.Reset();
    stop_.WaitFor(backoff.Next());
  }
}

absl::Status EtcdFleet::ReadAndWatch() {
  if (revision_ == 0) {
    STEM_ASSIGN(const EtcdPicture picture, client_.Range(absl::StrCat(options_.prefix, "/")));
    cluster_id_ = picture.cluster_id;
    revision_ = picture.revision;
    Publish(state_.Reset(picture));
    std::string own;
    {
      MutexLock lock(mutex_);
      own = registered_key_;
    }
    const auto is_own = [&](const EtcdEntry& entry) { return entry.key == own; };
    if (std::none_of(picture.entries.begin(), picture.entries.end(), is_own)) SeenGone(own, picture.revision);
  }
  bool reset = false;
  const absl::Status ended = client_.Watch(absl::StrCat(options_.prefix, "/"), revision_ + 1, [&](const EtcdChanges& changes) {
    // Another store under the same address, or one that lost its data: our revision means nothing there.
    reset = changes.cluster_id != cluster_id_ || (changes.opened && changes.revision < revision_);
    return !reset && OnChanges(changes);
  });
  if (reset) return absl::OutOfRangeError("etcd's store is another one, or an older state of it");
  return ended;
}

bool EtcdFleet::OnChanges(const EtcdChanges& changes) {
  if (changes.opened) {
    log_.Info("fleet_followed", {{"prefix", options_.prefix}, {"revision", revision_}});
    MutexLock lock(mutex_);
    connected_ = true;
    return true;
  }
  if (!changes.changes.empty()) Publish(state_.Apply(changes));
  for (const EtcdChanges::Change& change : changes.changes) {
    if (!change.value.has_value()) SeenGone(change.key, change.revision);
  }
  if (!changes.partial) revision_ = std::max(revision_, changes.revision);
  return !stop_.IsSet();
}

void EtcdFleet::Publish(const std::vector<FleetState::Refusal>& refusals) {
  for (const FleetState::Refusal& refusal : refusals) {
    log_.Warn("fleet_value_refused", {{"key", refusal.key}, {"why", refusal.why}});
  }
  const std::shared_ptr<const FleetSnapshot> snapshot = state_.Snapshot();
  CheckSecret(*snapshot);
  MutexLock lock(mutex_);
  snapshot_ = snapshot;
  refused_ = state_.refused();
  changed_.NotifyAll();
}

void EtcdFleet::SeenGone(const std::string& key, int64_t revision) {
  MutexLock lock(mutex_);
  if (registration_ != nullptr && key == registered_key_) registration_->SeenGone(revision);
}

// Every root and so every key follows from the secret: a running process keeps the one that it began with.
void EtcdFleet::CheckSecret(const FleetSnapshot& snapshot) {
  if (snapshot.secret == nullptr) return;
  if (first_secret_ == nullptr) {
    first_secret_ = snapshot.secret;
  } else if (!std::equal(first_secret_->bytes().begin(), first_secret_->bytes().end(), snapshot.secret->bytes().begin(),
                         snapshot.secret->bytes().end())) {
    log_.Error("cluster_secret_changed", {{"key", absl::StrCat(options_.prefix, "/secret")},
                                          {"what", "this process keeps the old one; restart every member to use the new one"}});
  }
}

void EtcdFleet::Tell(const OnChange& on_change) {
  std::shared_ptr<const FleetSnapshot> told;
  MutexLock lock(mutex_);
  while (!leaving_) {
    if (told == snapshot_) {
      changed_.Wait(mutex_);
      continue;
    }
    told = snapshot_;
    mutex_.Unlock();
    on_change(told);
    mutex_.Lock();
  }
}

}  // namespace stem
