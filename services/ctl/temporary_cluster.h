// A cluster of real processes in a temporary folder, for as long as this lives.
#pragma once

#include <memory>
#include <string>

#include "proto/status.h"
#include "services/ctl/cluster.h"
#include "services/ctl/cluster_state.h"

namespace stem {

// Threads: one at a time.
class TemporaryCluster {
 public:
  // `options.dir` is chosen here. Errors: those of ClusterUp.
  static absl::StatusOr<std::unique_ptr<TemporaryCluster>> Start(ClusterUpOptions options);
  // Stops the processes and removes the folder.
  ~TemporaryCluster();
  TemporaryCluster(const TemporaryCluster&) = delete;
  TemporaryCluster& operator=(const TemporaryCluster&) = delete;

  const std::string& dir() const { return dir_; }
  const ClusterState& state() const { return state_; }
  // Processor time so far, of this process and the cluster's.
  double CpuSeconds() const;

 private:
  explicit TemporaryCluster(std::string dir) : dir_(std::move(dir)) {}

  const std::string dir_;
  ClusterState state_;
};

}  // namespace stem
