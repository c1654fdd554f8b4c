// Which node a request of a replay goes to.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/status.h"
#include "services/ctl/replay.h"
#include "services/ctl/trace.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {

// What stays the same over a conversation: its id, or where the trace has none the first two blocks of its prompts; mixed.
uint64_t SessionOf(const TraceRequest& request);

// Threads: any.
class ReplayRouter {
 public:
  // `nodes`: their names, in the order of options.nodes. Errors: as of ClusterSecret::Read.
  static absl::StatusOr<std::unique_ptr<ReplayRouter>> Create(const ReplayOptions& options,
                                                              std::vector<std::string> nodes,
                                                              const NamespaceFingerprint& space);

  // Index of the node for request number `index`. A directory that does not answer by `deadline` is done without:
  // round-robin then.
  size_t NodeFor(uint64_t index, const TraceRequest& request, std::span<const BlockKey> keys, absl::Time deadline);

 private:
  ReplayRouter(Routing routing, std::vector<std::string> nodes, const NamespaceFingerprint& space)
      : routing_(routing), nodes_(std::move(nodes)), space_(space) {}

  size_t BestMatch(size_t otherwise, std::span<const BlockKey> keys, absl::Time deadline);

  const Routing routing_;
  const std::vector<std::string> nodes_;
  const NamespaceFingerprint space_;
  std::unique_ptr<ClusterSecret> secret_;                    // null unless kBestMatch
  std::unique_ptr<stemcache::v1::Directory::Stub> directory_;  // null unless kBestMatch
};

}  // namespace stem
