#include "services/ctl/status.h"

#include <algorithm>
#include <functional>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "stemcache/v1/node.grpc.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

template <typename Reply>
Json AnswersToJson(const std::vector<Answer<Reply>>& answers) {
  Json json = Json::array();
  for (const Answer<Reply>& answer : answers) {
    Json entry = answer.reply.ok() ? ToJson(*answer.reply) : Json{{"error", answer.reply.status().ToString()}};
    entry["target"] = answer.target;
    json.push_back(std::move(entry));
  }
  return json;
}

std::string Used(uint64_t used, uint64_t all) {
  return fmt::format("{:.1f}/{:.1f} GiB", static_cast<double>(used) / (1 << 30), static_cast<double>(all) / (1 << 30));
}

std::string Rate(const absl::StatusOr<Traffic>& traffic) {
  if (!traffic.ok()) return "?";
  return traffic->tokens_asked() == 0 ? "-" : Percent(traffic->hit_rate());
}

// node, up, health, hit rate, blocks in DRAM, slots, blocks on SSD, SSD bytes, sessions, pins, leases, failed proofs, streams, lag
constexpr char kNodeRow[] = "{:<12}{:>9}{:>8}{:>9}{:>10}{:>20}{:>10}{:>16}{:>10}{:>7}{:>8}{:>12}{:>9}{:>6}\n";

// What directories and their history add to a node's own words.
struct SeenByDirectories {
  std::string health = "-";
  std::string hit_rate = "-";
};

std::string NodeRow(const v1::NodeStatusReply& node, const SeenByDirectories& seen) {
  uint64_t slots = 0, slots_free = 0;
  for (const auto& arena : node.arenas()) {
    slots += arena.slots();
    slots_free += arena.slots_free();
  }
  size_t connected = 0;
  uint64_t lag = 0;  // changes that the slowest directory has not acknowledged
  for (const auto& stream : node.streams()) {
    connected += stream.connected() ? 1 : 0;
    lag = std::max(lag, node.sequence() - std::min(node.sequence(), stream.sequence_acknowledged()));
  }
  const double fill = slots == 0 ? 0 : static_cast<double>(slots - slots_free) / static_cast<double>(slots);
  return fmt::format(kNodeRow, node.address().node(), fmt::format("{} s", node.uptime_ms() / 1000), seen.health, seen.hit_rate,
                     node.blocks_dram(), fmt::format("{}/{} {:.0f}%", slots - slots_free, slots, fill * 100), node.blocks_ssd(),
                     Used(node.ssd_bytes_used(), node.ssd_bytes()), node.sessions(), node.pins(), node.leases(),
                     node.integrity_failures(), fmt::format("{}/{}", connected, node.streams_size()), lag);
}

std::string DirectoryRows(const std::string& target, const v1::DirectoryStatusReply& directory) {
  std::string out = fmt::format("directory {}: up {} s, {} blocks, {} ghosts\n", target, directory.uptime_ms() / 1000,
                                directory.blocks(), directory.ghosts());
  for (const auto& node : directory.nodes()) {
    out += fmt::format("  {:<12}{:<7} heard {} ms ago, sequence {}, {} blocks in DRAM, {} on SSD, {} resyncs\n",
                       node.address().node(), node.state(), node.silent_ms(), node.sequence(), node.blocks_dram(),
                       node.blocks_ssd(), node.resyncs());
  }
  return out;
}

SeenByDirectories SeenOf(const ClusterStatus& status, const std::string& name) {
  SeenByDirectories seen;
  if (const auto traffic = status.traffic_of.find(name); traffic != status.traffic_of.end()) seen.hit_rate = Rate(traffic->second);
  for (const auto& directory : status.directories) {
    if (!directory.reply.ok()) continue;
    for (const auto& node : directory.reply->nodes()) {
      if (node.address().node() == name) seen.health = fmt::format("{} %", node.health_percent());
    }
  }
  return seen;
}

}  // namespace

StatusTargets TargetsOf(const ClusterState& state) {
  StatusTargets targets;
  for (const ClusterMember& node : state.nodes) targets.nodes.push_back(node.socket);
  targets.directories.push_back(state.directory.listen);
  targets.secret_file = state.secret_path();
  return targets;
}

bool ClusterStatus::whole() const {
  const auto answered = [](const auto& answer) { return answer.reply.ok(); };
  return std::all_of(nodes.begin(), nodes.end(), answered) &&
         std::all_of(directories.begin(), directories.end(), answered);
}

Json ClusterStatus::ToJson() const {
  Json json = {{"nodes", AnswersToJson(nodes)}, {"directories", AnswersToJson(directories)}};
  if (traffic.has_value()) json["traffic"] = traffic->ToJson();
  for (const auto& [node, minutes] : traffic_of) {
    json["traffic_5m_of"][node] = minutes.ok() ? minutes->ToJson() : Json{{"error", minutes.status().ToString()}};
  }
  return json;
}

std::string ClusterStatus::ToTable() const {
  std::string out;
  if (traffic.has_value()) {
    out = fmt::format("hit rate (of tokens): now {}, 5 min {}, 1 h {}\n", Rate(traffic->now), Rate(traffic->minutes), Rate(traffic->hour));
  }
  out += fmt::format(kNodeRow, "node", "up", "health", "5 min", "in DRAM", "slots used", "on SSD", "SSD used", "sessions", "pins", "leases",
                     "bad proofs", "streams", "lag");
  for (const auto& node : nodes) {
    out += node.reply.ok() ? NodeRow(*node.reply, SeenOf(*this, node.reply->address().node()))
                           : fmt::format("{}: {}\n", node.target, node.reply.status().ToString());
  }
  for (const auto& directory : directories) {
    out += directory.reply.ok()
               ? DirectoryRows(directory.target, *directory.reply)
               : fmt::format("directory {}: {}\n", directory.target, directory.reply.status().ToString());
  }
  return out;
}

ClusterStatus QueryStatus(const StatusTargets& targets) {
  ClusterStatus status;
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(targets.secret_file);
  const absl::Status secret_status = secret.status();
  const ClusterSecret* const shown = secret.ok() && secret->has_value() ? &**secret : nullptr;
  for (const std::string& target : targets.nodes) {
    status.nodes.push_back({target, Ask(target, shown, targets.deadline, &v1::Node::Stub::NodeStatus)});
  }
  for (const std::string& target : targets.directories) {
    if (!secret_status.ok()) {
      status.directories.push_back({target, secret_status});
      continue;
    }
    status.directories.push_back({target, Ask(target, shown, targets.deadline, &v1::Directory::Stub::DirectoryStatus)});
  }
  if (targets.directories.empty() || !secret_status.ok()) return status;
  const HistorySource history{.directories = targets.directories, .secret = shown, .deadline = targets.deadline};
  status.traffic = AskTrafficWindows(history);
  for (const auto& node : status.nodes) {
    if (!node.reply.ok()) continue;
    const std::string& name = node.reply->address().node();
    status.traffic_of.emplace(name, AskTraffic(history, 300, name));
  }
  return status;
}

}  // namespace stem
