#include "services/ctl/status.h"

#include <algorithm>
#include <map>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "proto/namespace_spec.h"
#include "services/ctl/levers.h"
#include "services/ctl/printable.h"
#include "services/ctl/why.h"
#include "services/runtime/at_once.h"
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

std::string Size(uint64_t bytes) { return Bytes(static_cast<double>(bytes)); }

// 80 columns each.
// node, state, up, health, hit rate now, over 5 min, over 1 h, DRAM, SSD
constexpr char kNodeRow[] = "{:<14}{:<10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}\n";
// node, version, blocks in DRAM, on SSD, sessions, pins, leases, failed proofs, streams, lag
constexpr char kWorkRow[] = "{:<14}{:<9}{:>10}{:>9}{:>9}{:>6}{:>7}{:>5}{:>7}{:>4}\n";
// directory, version, up, blocks, ghosts, index, shed
constexpr char kDirectoryRow[] = "{:<22}{:<9}{:>8}{:>9}{:>9}{:>16}{:>7}\n";
// trust group, nodes, DRAM used, of which quota, arena, kept from eviction
constexpr char kGroupRow[] = "{:<12}{:>6}{:>10}{:>8}{:>9}{:>10}{:>8}{:>9}{:>8}\n";

// namespace, node, encoding, blocks, bytes of them, bytes written, relative error, largest error
constexpr char kEncodedRow[] = "{:<22}{:<10}{:<9}{:>7}{:>9}{:>9}{:>7}{:>7}\n";

struct Slots {
  uint64_t all = 0, used = 0;
};
Slots SlotsOf(const v1::NodeStatusReply& node) {
  Slots slots;
  for (const auto& arena : node.arenas()) {
    slots.all += arena.slots();
    slots.used += arena.slots() - std::min(arena.slots(), arena.slots_free());
  }
  return slots;
}

// A node's state and health as the first directory that knows it has them.
const v1::DirectoryStatusReply::Node* SeenOf(const ClusterStatus& status, const std::string& name) {
  for (const auto& directory : status.directories) {
    if (!directory.reply.ok()) continue;
    for (const auto& node : directory.reply->nodes()) {
      if (node.address().node() == name) return &node;
    }
  }
  return nullptr;
}

std::string NodeRow(const ClusterStatus& status, const v1::NodeStatusReply& node) {
  const std::string& name = node.address().node();
  const auto* const seen = SeenOf(status, name);
  const auto traffic = status.traffic_of.find(name);
  const TrafficWindows windows = traffic == status.traffic_of.end() ? TrafficWindows() : traffic->second;
  const Slots slots = SlotsOf(node);
  std::string state = seen == nullptr ? "-" : StateOf(*seen);
  if (node.draining()) state = "draining";
  return fmt::format(kNodeRow, Fit(name, 13), Fit(state, 9), RoughTime(absl::Milliseconds(node.uptime_ms())),
                     seen == nullptr ? "-" : fmt::format("{} %", seen->health_percent()), HitRateText(windows.now), HitRateText(windows.minutes),
                     HitRateText(windows.hour), Percent(Share(slots.used, slots.all)),
                     node.ssd_bytes() == 0 ? "-" : Percent(Share(node.ssd_bytes_used(), node.ssd_bytes())));
}

std::string WorkRow(const v1::NodeStatusReply& node) {
  size_t connected = 0;
  uint64_t lag = 0;  // changes that the slowest directory has not acknowledged
  for (const auto& stream : node.streams()) {
    connected += stream.connected() ? 1 : 0;
    lag = std::max(lag, node.sequence() - std::min(node.sequence(), stream.sequence_acknowledged()));
  }
  return fmt::format(kWorkRow, Fit(node.address().node(), 13), Fit(node.version(), 8), node.blocks_dram(), node.blocks_ssd(), node.sessions(),
                     node.pins(), node.leases(), node.integrity_failures(), fmt::format("{}/{}", connected, node.streams_size()), Short(static_cast<double>(lag)));
}

// Of all nodes that answer, by trust group.
std::string GroupRows(const ClusterStatus& status) {
  struct Group {
    uint64_t nodes = 0, used = 0, quota = 0, ssd_used = 0, ssd_quota = 0, kept = 0;
  };
  std::map<std::string, Group> groups;
  for (const auto& node : status.nodes) {
    if (!node.reply.ok()) continue;
    for (const auto& arena : node.reply->arenas()) {
      Group& group = groups[arena.group()];
      ++group.nodes;
      group.used += (arena.slots() - std::min(arena.slots(), arena.slots_free())) * arena.slot_bytes();
      group.quota += arena.bytes_max();
      group.ssd_used += arena.ssd_bytes_used();
      group.ssd_quota += arena.ssd_bytes_max();
      group.kept += arena.bytes_kept();
    }
  }
  if (groups.empty()) return "";
  std::string out = "\n" + fmt::format(kGroupRow, "trust group", "nodes", "DRAM used", "", "of", "SSD used", "", "of", "kept");
  for (const auto& [name, group] : groups) {
    out += fmt::format(kGroupRow, Fit(name, 11), group.nodes, Size(group.used), Percent(Share(group.used, group.quota)), Size(group.quota),
                       Size(group.ssd_used), Percent(Share(group.ssd_used, group.ssd_quota)), Size(group.ssd_quota), group.kept == 0 ? "-" : Size(group.kept));
  }
  return out;
}

std::string ErrorText(double share) { return fmt::format("{:.2f} %", 100 * share); }

// What namespaces that keep codes on the SSD saved and lost there, by node.
std::string EncodedRows(const ClusterStatus& status) {
  std::string out;
  for (const auto& node : status.nodes) {
    if (!node.reply.ok()) continue;
    for (const auto& spilled : node.reply->encoded_spills()) {
      const auto encoding = static_cast<uint32_t>(spilled.encoding());
      const bool one = encoding != 0 && encoding < kSpillEncodings;  // else of several namespaces, or a newer node's
      out += fmt::format(kEncodedRow, Fit(spilled.namespace_(), 21), Fit(node.reply->address().node(), 9), one ? kSpillEncodingNames[encoding] : "-",
                         Short(static_cast<double>(spilled.payloads())), Size(spilled.payload_bytes()), Size(spilled.record_bytes()),
                         ErrorText(spilled.relative_error()), ErrorText(spilled.largest_error()));
    }
  }
  if (out.empty()) return out;
  return "\n" + fmt::format(kEncodedRow, "lossy on SSD", "node", "as", "blocks", "of", "written", "rms", "peak") + out +
         "rms, peak: error over the values' own; the largest, over the largest value that shares its scale\n";
}

std::string DirectoryRows(const std::string& target, const v1::DirectoryStatusReply& directory) {
  std::string out = fmt::format(kDirectoryRow, Fit(target, 21), Fit(directory.version(), 8), RoughTime(absl::Milliseconds(directory.uptime_ms())),
                                directory.blocks(), directory.ghosts(),
                                fmt::format("{} {}", Size(directory.index_bytes()), Percent(Share(directory.index_bytes(), directory.index_bytes_max()))),
                                directory.blocks_shed());
  for (const auto& node : directory.nodes()) {
    if (node.state() == "live" && node.resyncs() == 0) continue;
    out += fmt::format("  {} is {} there: heard {} ago, {} resyncs\n", Printable(node.address().node()), Printable(node.state()),
                       RoughTime(absl::Milliseconds(node.silent_ms())), node.resyncs());
  }
  return out;
}

std::string Silent(const std::string& target, const absl::Status& why) {
  return fmt::format("{} does not answer: {}\n", Printable(target), Printable(why.message()));
}

}  // namespace

StatusTargets TargetsOf(const ClusterState& state) {
  StatusTargets targets;
  for (const ClusterMember& node : state.nodes) {
    targets.nodes.push_back(node.socket);
    targets.names[node.socket] = node.name;
  }
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
  for (const auto& [node, windows] : traffic_of) json["traffic_of"][node] = windows.ToJson();
  return json;
}

std::string ClusterStatus::ToTable() const {
  std::string out, work, silent;
  if (traffic.has_value()) {
    out = fmt::format("hit rate (of tokens): now {}, 5 min {}, 1 h {}\n\n", HitRateText(traffic->now), HitRateText(traffic->minutes),
                      HitRateText(traffic->hour));
  }
  for (const auto& node : nodes) {
    if (!node.reply.ok()) {
      silent += Silent("node " + node.target, node.reply.status());
      continue;
    }
    if (work.empty()) {
      out += fmt::format(kNodeRow, "node", "state", "up", "health", "hit now", "5 min", "1 h", "DRAM", "SSD");
      work = "\n" + fmt::format(kWorkRow, "node", "version", "in DRAM", "on SSD", "sessions", "pins", "leases", "bad", "stream", "lag");
    }
    out += NodeRow(*this, *node.reply);
    work += WorkRow(*node.reply);
  }
  out += work + GroupRows(*this) + EncodedRows(*this);
  bool headed = false;
  for (const auto& directory : directories) {
    if (!directory.reply.ok()) {
      silent += Silent("directory " + directory.target, directory.reply.status());
      continue;
    }
    if (!headed) out += "\n" + fmt::format(kDirectoryRow, "directory", "version", "up", "blocks", "ghosts", "index", "shed");
    headed = true;
    out += DirectoryRows(directory.target, *directory.reply);
  }
  return out + (silent.empty() ? "" : "\n" + silent);
}

std::string StateOf(const v1::DirectoryStatusReply::Node& node) { return node.state() == "live" && node.draining() ? "draining" : node.state(); }

ClusterStatus QueryStatus(const StatusTargets& targets) {
  ClusterStatus status;
  const absl::StatusOr<std::optional<ClusterSecret>> secret = ReadSecret(targets.secret_file);
  const absl::Status secret_status = secret.status();
  const ClusterSecret* const shown = secret.ok() && secret->has_value() ? &**secret : nullptr;
  const absl::StatusOr<std::vector<NamedNode>> nodes = NodesToAsk(targets, "", LostNodes::kToo);
  status.nodes.resize(nodes.ok() ? nodes->size() : 0);
  status.directories.resize(targets.directories.size());
  AskAtOnce(status.nodes.size() + status.directories.size(), kQuestionsAtOnce, [&](size_t i) {
    if (i < status.nodes.size()) {
      const NamedNode& node = (*nodes)[i];
      status.nodes[i] = {node.name, Ask(node.address, shown, targets.deadline, &v1::Node::Stub::NodeStatus)};
      return;
    }
    auto& directory = status.directories[i - status.nodes.size()];
    directory.target = targets.directories[i - status.nodes.size()];
    if (!secret_status.ok()) {
      directory.reply = secret_status;
      return;
    }
    directory.reply = Ask(directory.target, shown, targets.deadline, &v1::Directory::Stub::DirectoryStatus);
  });
  if (targets.directories.empty() || !secret_status.ok()) return status;
  const HistorySource history{.directories = targets.directories, .secret = shown, .deadline = targets.deadline};
  status.traffic = AskTrafficWindows(history);
  if (!status.traffic->now.ok()) return status;  // no directory answers: not asked once more for each node
  std::vector<TrafficWindows> windows(status.nodes.size());
  AskAtOnce(windows.size(), kQuestionsAtOnce, [&](size_t i) {
    if (status.nodes[i].reply.ok()) windows[i] = AskTrafficWindows(history, status.nodes[i].reply->address().node());
  });
  for (size_t i = 0; i < windows.size(); ++i) {
    if (status.nodes[i].reply.ok()) status.traffic_of.emplace(status.nodes[i].reply->address().node(), windows[i]);
  }
  return status;
}

}  // namespace stem
