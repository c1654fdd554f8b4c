#include "services/directory/fleet_history.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

constexpr absl::Duration kClockSetMin = absl::Seconds(1);  // less is two clocks that were not read at once

FleetLevels LevelsOf(const v1::Hello& hello, const v1::Heartbeat& heartbeat) {
  FleetLevels levels{.nodes_live = 1,
                     .dram_bytes = static_cast<int64_t>(hello.dram_bytes()),
                     .dram_bytes_used = static_cast<int64_t>(heartbeat.dram_bytes_used()),
                     .ssd_bytes = static_cast<int64_t>(hello.ssd_bytes()),
                     .ssd_bytes_used = static_cast<int64_t>(heartbeat.ssd_bytes_used()),
                     .orphan_blocks = static_cast<int64_t>(heartbeat.counters().orphan_blocks()),
                     .tenants = {}};
  for (const auto& tenant : heartbeat.counters().tenants()) {
    levels.tenants[tenant.tenant()] = {static_cast<int64_t>(tenant.dram_bytes()), static_cast<int64_t>(tenant.dram_bytes_used())};
  }
  return levels;
}

}  // namespace

void FleetHistory::Feed::OnMessage(const v1::AnnounceMessage& message, absl::Time now) {
  if (message.has_hello()) hello_ = message.hello();
  if (message.heartbeat().has_counters()) history_.Hear(hello_, message.heartbeat(), now);
}

FleetHistory::Node::Node() : series(kNodeResolutions) {}

void FleetHistory::Hear(const v1::Hello& hello, const v1::Heartbeat& heartbeat, absl::Time now) {
  MutexLock lock(mutex_);
  now = InTurn(now);
  Sweep(now);
  Node& node = NodeOf(hello, heartbeat.counters(), now);
  const v1::NodeCounters change = CountersSince(node.counted, heartbeat.counters());
  node.counted = heartbeat.counters();
  node.heard = now;
  series_.Advance(levels_, now);
  node.series.Advance(node.levels, now);
  SetLevels(LevelsOf(hello, heartbeat), &node);
  series_.Add(change);
  AddCounters(change, &total_);
  AddCounters(change, &node.total);
  v1::NodeCounters without_tenants = change;
  without_tenants.clear_tenants();  // they would take most of the memory
  node.series.Add(without_tenants);
}

FleetHistory::Node& FleetHistory::NodeOf(const v1::Hello& hello, const v1::NodeCounters& counters, absl::Time now) {
  const auto found = nodes_.find(hello.node().node());
  if (found != nodes_.end()) {
    Node& node = *found->second;
    if (node.incarnation != hello.node().incarnation()) node.counted.Clear();
    node.incarnation = hello.node().incarnation();
    return node;
  }
  if (nodes_.size() >= kNodesMax) {
    const auto silent = std::min_element(nodes_.begin(), nodes_.end(),
                                         [](const auto& a, const auto& b) { return a.second->heard < b.second->heard; });
    SetLevels({}, silent->second.get());
    nodes_.erase(silent);
    forgot_ = true;
  }
  auto node = std::make_unique<Node>();
  node->incarnation = hello.node().incarnation();
  // One that was there first counted what this directory did not hear, or heard already.
  if (forgot_ || absl::Milliseconds(hello.uptime_ms()) > now - started_) node->counted = counters;
  return *nodes_.emplace(hello.node().node(), std::move(node)).first->second;
}

void FleetHistory::SetLevels(const FleetLevels& levels, Node* node) {
  levels_.Add(node->levels, -1);
  node->levels = levels;
  node->live = levels.nodes_live > 0;
  if (levels_.tenants.size() >= kTenantsMax) node->levels.tenants.clear();
  levels_.Add(node->levels, 1);
}

void FleetHistory::Sweep(absl::Time now) {
  if (now - swept_ < absl::Seconds(1)) return;
  swept_ = now;
  for (auto& [name, node] : nodes_) {
    if (node->live && now - node->heard > kSilentMax) {
      series_.Advance(levels_, now);
      SetLevels({}, node.get());
    }
  }
}

absl::StatusOr<v1::HistoryReply> FleetHistory::Read(const v1::HistoryRequest& call, absl::Time now, absl::Time unix_now) {
  MutexLock lock(mutex_);
  if (absl::AbsDuration(unix_now - now - unix_ahead_) > kClockSetMin) unix_ahead_ = unix_now - now;
  now = InTurn(now);
  Sweep(now);
  CounterSeries* series = &series_;
  const FleetLevels* levels = &levels_;
  const v1::NodeCounters* total = &total_;
  if (!call.node().empty()) {
    const auto found = nodes_.find(call.node());
    if (found == nodes_.end()) return absl::NotFoundError(absl::StrCat("no node '", call.node(), "' has been heard here"));
    series = &found->second->series;
    levels = &found->second->levels;
    total = &found->second->total;
  }
  series->Advance(*levels, now);
  v1::HistoryReply reply;
  series->Read(absl::Seconds(call.seconds()), call.points_max(), *levels, now, now + unix_ahead_, &reply);
  *reply.mutable_total() = *total;
  return reply;
}

size_t FleetHistory::bytes() const {
  MutexLock lock(mutex_);
  size_t bytes = series_.bytes();
  for (const auto& [name, node] : nodes_) bytes += sizeof(*node) + node->series.bytes() + node->counted.SpaceUsedLong();
  return bytes;
}

}  // namespace stem
