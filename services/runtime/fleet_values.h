// What stands in etcd under the cluster's prefix, read with suspicion, and the picture that it makes. Plain: no etcd, no threads.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "services/runtime/etcd_client.h"
#include "services/runtime/fleet.h"

namespace stem {

inline constexpr size_t kFleetValueBytesMax = 64 << 10;
inline constexpr size_t kFleetDirectoriesMax = 64;
inline constexpr size_t kFleetNodesMax = 32768;
inline constexpr size_t kFleetEntriesMax = 1024;  // tenants, shared groups and namespaces, each

// Keys: PREFIX/nodes/NAME, PREFIX/directories/ADDRESS.
std::string NodeKey(absl::string_view prefix, absl::string_view name);
std::string DirectoryKey(absl::string_view prefix, absl::string_view address);

// Values, one JSON object each. Errors of parsing: InvalidArgument naming field, value and what would be right.
std::string FormatMember(const FleetMember& member);
absl::StatusOr<FleetMember> ParseMember(absl::string_view name, absl::string_view json);
absl::StatusOr<FleetTenant> ParseTenant(absl::string_view json);
absl::StatusOr<FleetSharedGroup> ParseSharedGroup(absl::string_view json);
absl::StatusOr<FleetNamespace> ParseNamespace(absl::string_view json);
absl::StatusOr<ClusterSecret> ParseSecret(absl::string_view json);

// Threads: one at a time.
class FleetState {
 public:
  // `seed`: what is true until etcd says otherwise.
  FleetState(std::string prefix, FleetSnapshot seed) : prefix_(std::move(prefix)), now_(std::move(seed)) {}

  struct Refusal {
    std::string key;
    std::string why;
  };
  // Each returns the values that were refused just now; where a refused key had a good value before, that one is kept.
  std::vector<Refusal> Reset(const EtcdPicture& picture);
  std::vector<Refusal> Apply(const EtcdChanges& changes);

  std::shared_ptr<const FleetSnapshot> Snapshot() const { return std::make_shared<FleetSnapshot>(now_); }
  // Values that are there and will not do.
  size_t refused() const { return refused_.size(); }

 private:
  struct Refused {
    std::string value;
    std::string why;
  };
  // The part of `key` after the prefix, cut into kind and name.
  struct Place {
    absl::string_view kind;
    absl::string_view name;
  };

  absl::StatusOr<Place> PlaceOf(absl::string_view key) const;
  absl::Status Set(absl::string_view key, absl::string_view value);
  absl::Status SetMember(const Place& place, absl::string_view value);
  absl::Status SetTenant(const Place& place, absl::string_view value);
  absl::Status SetSharedGroup(const Place& place, absl::string_view value);
  void Remove(absl::string_view key);
  // Sets, or remembers the refusal; true when that is a new one.
  bool SetOrRefuse(const std::string& key, const std::string& value);
  // After each batch: what follows from all of it. Returns those of `news` that are still refused.
  std::vector<Refusal> Settle(const std::vector<std::string>& news);

  const std::string prefix_;
  FleetSnapshot now_;
  std::map<std::string, FleetMember> directories_;  // as registered; now_ keeps the last when none is
  std::map<std::string, Refused> refused_;          // by key
};

}  // namespace stem
