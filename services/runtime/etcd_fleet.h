// The fleet as etcd tells it. When etcd is lost the picture stays as it is, and nothing stops; when it comes back this process
// registers again, and the picture catches up: by the changes since, or whole where etcd has forgotten those.
//   One rule of its own: the list of directories is never emptied. If none is registered any more, the last one is kept, because
//   it is likelier that they lost etcd than that all died; and asking a dead one costs little.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "services/runtime/backoff.h"
#include "services/runtime/etcd_client.h"
#include "services/runtime/etcd_registration.h"
#include "services/runtime/fleet.h"
#include "services/runtime/fleet_values.h"

namespace stem {

class EtcdFleet final : public FleetSource {
 public:
  // Begins to watch; `options.etcd` names at least one endpoint. Does not wait.
  EtcdFleet(const FleetOptions& options, FleetSnapshot seed, Logger& log);
  ~EtcdFleet() override;
  EtcdFleet(const EtcdFleet&) = delete;
  EtcdFleet& operator=(const EtcdFleet&) = delete;

  // False when etcd has not been heard within `time`.
  bool WaitForFirst(absl::Duration time) ABSL_LOCKS_EXCLUDED(mutex_);

  std::shared_ptr<const FleetSnapshot> snapshot() const override ABSL_LOCKS_EXCLUDED(mutex_);
  void Follow(OnChange on_change) override;
  void RegisterNode(const FleetMember& self) override;
  void RegisterDirectory(const FleetMember& self) override;
  FleetHealth health() const override ABSL_LOCKS_EXCLUDED(mutex_);
  void Leave() override ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void Register(std::string key, const FleetMember& self) ABSL_LOCKS_EXCLUDED(mutex_);
  // The watching thread.
  void Run();
  absl::Status ReadAndWatch();
  bool OnChanges(const EtcdChanges& changes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Publish(const std::vector<FleetState::Refusal>& refusals) ABSL_LOCKS_EXCLUDED(mutex_);
  void SeenGone(const std::string& key, int64_t revision) ABSL_LOCKS_EXCLUDED(mutex_);
  void CheckSecret(const FleetSnapshot& snapshot);
  // The telling thread.
  void Tell(const OnChange& on_change) ABSL_LOCKS_EXCLUDED(mutex_);

  const FleetOptions options_;
  Logger& log_;
  EtcdClient client_;

  // Of the watching thread.
  FleetState state_;
  uint64_t cluster_id_ = 0;
  int64_t revision_ = 0;  // all changes up to it are in state_; 0 = read the prefix anew
  std::shared_ptr<const ClusterSecret> first_secret_;

  mutable Mutex mutex_;
  CondVar changed_;
  bool leaving_ ABSL_GUARDED_BY(mutex_) = false;
  bool connected_ ABSL_GUARDED_BY(mutex_) = false;
  size_t refused_ ABSL_GUARDED_BY(mutex_) = 0;
  std::string registered_key_ ABSL_GUARDED_BY(mutex_);  // empty = none
  std::shared_ptr<const FleetSnapshot> snapshot_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<EtcdRegistration> registration_ ABSL_GUARDED_BY(mutex_);

  StopFlag stop_;
  std::thread watcher_;
  std::thread teller_;
};

}  // namespace stem
