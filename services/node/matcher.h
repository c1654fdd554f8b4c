// Asks the directories, in order, until one answers: lookups of this node.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {

// Threads: any.
class Matcher {
 public:
  // `secret` is borrowed. `directories`: host:port each; may be empty.
  Matcher(const std::vector<std::string>& directories, std::string node, const ClusterSecret& secret);

  // Lookups that run go on with the directories they began with.
  void SetDirectories(const std::vector<std::string>& directories);

  // The longest run of `keys` (chain keys) held elsewhere, all `parts` of each; validated against `keys`. Each directory
  // gets an equal share of the time that is left. Errors: Unavailable when no directory answered.
  absl::StatusOr<stemcache::v1::MatchReply> Match(const NamespaceFingerprint& space, std::span<const BlockKey> keys,
                                                  std::span<const uint32_t> parts, absl::Time deadline) const;

 private:
  const std::string node_;
  const ClusterSecret& secret_;
  mutable Mutex mutex_;
  std::vector<std::shared_ptr<stemcache::v1::Directory::Stub>> stubs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
