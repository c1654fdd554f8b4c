// What the processes of a cluster say of themselves: NodeStatus of each node, DirectoryStatus of each directory.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/time/time.h"
#include "proto/status.h"
#include "services/ctl/ask.h"
#include "services/ctl/cluster_state.h"
#include "services/ctl/traffic.h"
#include "stemcache/v1/directory.pb.h"
#include "stemcache/v1/node.pb.h"

namespace stem {

struct StatusTargets {
  std::vector<std::string> nodes = {};        // paths of Unix sockets, or host:port
  std::vector<std::string> directories = {};  // host:port
  std::string secret_file = "";               // for TCP; may be empty when there are only sockets
  absl::Duration deadline = absl::Seconds(2);  // of each answer
  std::map<std::string, std::string> names = {};  // of nodes, by address, where they are known
};

StatusTargets TargetsOf(const ClusterState& state);

// "live", "stale" or "lost" as the directory has it; "draining" of a live one that drains.
std::string StateOf(const stemcache::v1::DirectoryStatusReply::Node& node);

struct ClusterStatus {
  std::vector<Answer<stemcache::v1::NodeStatusReply>> nodes;             // by the names that are known, else by what was asked
  std::vector<Answer<stemcache::v1::DirectoryStatusReply>> directories;  // as asked
  // Of the fleet, and of each node by name; empty where no directory was asked.
  std::optional<TrafficWindows> traffic;
  std::map<std::string, TrafficWindows> traffic_of;

  // Everyone asked has answered.
  bool whole() const;
  nlohmann::json ToJson() const;  // per target: the message's own fields, or "error"
  std::string ToTable() const;
};

// Asks the targets, and where they name no node those that the directories know, several at a time; who does not answer is in the result with why.
ClusterStatus QueryStatus(const StatusTargets& targets);

}  // namespace stem
