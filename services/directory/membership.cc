#include "services/directory/membership.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

uint32_t Millis(absl::Duration duration) {
  return static_cast<uint32_t>(std::clamp<int64_t>(absl::ToInt64Milliseconds(duration), 0, UINT32_MAX));
}

// One read in ten decides a node's health over its last ten reads or so; a wrong byte weighs as much as ten late ones.
constexpr double kReadShare = 0.1;
constexpr uint32_t kProofReads = 10;
// What is not read because it is not trusted gets another chance: from nothing to full in 20 s.
constexpr double kHealthPerSecond = 0.05;
// A node whose stream stands and is silent is out of sight after stale_max, but keeps its slots for so many times that: what it
// sent may wait in our own queue, and the stream goes on where it was. To give it up would only make it send all of it again.
constexpr int kGiveUpLimits = 10;
// A newcomer takes its full part after this long.
constexpr absl::Duration kNewcomerTime = absl::Seconds(10);
constexpr double kNewcomerShare = 0.1;  // at first

}  // namespace

uint32_t MemberView::IndexOf(const std::string& node) const {
  const auto found = std::lower_bound(nodes.begin(), nodes.end(), node, [](const Node& each, const std::string& wanted) {
    return each.address->node() < wanted;
  });
  if (found == nodes.end() || found->address->node() != node) return UINT32_MAX;
  return static_cast<uint32_t>(found - nodes.begin());
}

Membership::Membership(PrefixIndex& index, const MembershipOptions& options) : index_(index), options_(options) {}

Membership::Node* Membership::Find(const StreamTicket& ticket) {
  const auto found = nodes_.find(ticket.node);
  return found != nodes_.end() && found->second->stream == ticket.stream ? found->second.get() : nullptr;
}

absl::StatusOr<Membership::Node*> Membership::FindOrMake(const std::string& name) {
  if (const auto found = nodes_.find(name); found != nodes_.end()) return found->second.get();
  if (nodes_.size() >= kNodesMax) {
    auto oldest = nodes_.end();
    for (auto each = nodes_.begin(); each != nodes_.end(); ++each) {
      const bool older = oldest == nodes_.end() || each->second->heard < oldest->second->heard;
      if (each->second->lost && older) oldest = each;
    }
    if (oldest == nodes_.end()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("this directory has ", kNodesMax, " nodes, and that is its limit"));
    }
    nodes_.erase(oldest);
  }
  return (nodes_[name] = std::make_unique<Node>()).get();
}

void Membership::CloseSlots(Node& node, SlotEnd end) {
  if (node.served) index_.CloseSlot(*node.served, end);
  if (node.filling) index_.CloseSlot(*node.filling, end);
  node.served.reset();
  node.filling.reset();
  node.whole = false;
}

absl::StatusOr<StreamTicket> Membership::Join(const v1::Hello& hello, absl::Time now) {
  MutexLock lock(mutex_);
  view_.reset();
  STEM_ASSIGN(Node * node, FindOrMake(hello.node().node()));
  const uint64_t incarnation = hello.node().incarnation();
  if (std::find(node->replaced.begin(), node->replaced.end(), incarnation) != node->replaced.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("incarnation ", absl::Hex(incarnation), " of node '", hello.node().node(), "' was replaced by ",
                     absl::Hex(node->address->incarnation()), "; two nodes must not share a name"));
  }
  if (node->address != nullptr && node->address->incarnation() != incarnation) {
    CloseSlots(*node, SlotEnd::kLost);
    node->replaced.push_back(node->address->incarnation());
    if (node->replaced.size() > kReplacedMax) node->replaced.pop_front();
    node->applied = 0;
  }
  if (node->filling) {
    index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
    node->filling.reset();
  }
  // Started together is not restarted: starters do not wait for one process before they start the next.
  if (absl::Milliseconds(hello.uptime_ms()) > now - options_.started + options_.stale_max) {
    restarted_ = history_lost_ = true;
  }
  if (node->address == nullptr && now - options_.started > options_.stale_max) node->newcomer_since = now;
  node->address = std::make_shared<const v1::NodeAddress>(hello.node());
  node->hello = hello;
  node->last_beat.Clear();
  node->stream = ++streams_;
  node->connected = true;
  node->lost = false;
  node->whole = false;
  node->heard = now;
  if (!node->served) node->whole_at = node->exact_at = now;  // it lags from here
  return StreamTicket{.node = hello.node().node(), .stream = node->stream};
}

Membership::Standing Membership::Heard(const StreamTicket& ticket, absl::Time now) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return Standing::kSuperseded;
  if (IsLost(*node, now)) view_.reset();
  node->heard = now;
  if (node->whole) node->whole_at = now;
  if (!node->lost) return Standing::kCurrent;
  node->lost = false;
  node->whole_at = node->exact_at = now;
  return Standing::kDropped;
}

absl::StatusOr<SlotHandle> Membership::BeginSnapshot(const StreamTicket& ticket) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return absl::AbortedError("another stream speaks for this node");
  view_.reset();
  if (node->filling) index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
  node->filling.reset();
  node->whole = false;
  STEM_ASSIGN(node->filling, index_.OpenSlot());
  return *node->filling;
}

void Membership::EndSnapshot(const StreamTicket& ticket, uint64_t sequence, uint64_t adds, absl::Time now) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr || !node->filling) return;
  view_.reset();
  // Nothing left unheard when no change was made since, or, at the first meeting, when all changes were adds.
  const bool all_heard = sequence == node->applied || (node->applied == 0 && sequence <= adds);
  history_lost_ = history_lost_ || !all_heard;
  if (node->served) index_.CloseSlot(*node->served, SlotEnd::kSuperseded);
  node->served = node->filling;
  node->filling.reset();
  node->whole = true;
  node->applied = sequence;
  node->whole_at = now;
  if (node->applied >= node->last_beat.sequence()) node->exact_at = now;
}

void Membership::Applied(const StreamTicket& ticket, uint64_t sequence, absl::Time now) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  node->applied = std::max(node->applied, sequence);
  if (node->whole && node->applied >= node->last_beat.sequence()) node->exact_at = now;
}

void Membership::Gapped(const StreamTicket& ticket) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  view_.reset();
  if (node->filling) index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
  node->filling.reset();
  node->whole = false;
  ++node->resyncs;
}

void Membership::Beat(const StreamTicket& ticket, const v1::Heartbeat& heartbeat, absl::Time now) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  for (const v1::PeerReport& report : heartbeat.peers()) TakeReport(report, now);
  node->last_beat = heartbeat;
  node->last_beat.clear_peers();
  node->last_beat.clear_published();
  if (node->whole && node->applied >= heartbeat.sequence()) node->exact_at = now;
}

void Membership::Leave(const StreamTicket& ticket) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  if (node->filling) index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
  view_.reset();
  node->filling.reset();
  node->connected = false;
  node->whole = false;
}

bool Membership::IsLost(const Node& node, absl::Time now) const {
  // Nothing is credited to a node before its first snapshot is whole: its chunks may wait in our own queue, and to give it up
  // would only make it send them again.
  const bool arriving = node.connected && !node.lost && node.filling && !node.served;
  return node.lost || now - node.heard > (arriving ? kGiveUpLimits : 1) * options_.stale_max;
}

bool Membership::IsExact(const Node& node, absl::Time now) const {
  return node.whole && now - node.heard <= options_.heartbeat && node.applied >= node.last_beat.sequence();
}

size_t Membership::Tick(absl::Time now) {
  MutexLock lock(mutex_);
  size_t dropped = 0;
  for (auto& [name, node] : nodes_) {
    const int limits = node->connected ? kGiveUpLimits : 1;
    if (node->lost || now - node->heard <= limits * options_.stale_max) continue;
    CloseSlots(*node, SlotEnd::kLost);
    view_.reset();
    node->lost = true;
    ++dropped;
  }
  return dropped;
}

std::vector<const Membership::Node*> Membership::ByName() const {
  std::vector<const Node*> sorted;
  sorted.reserve(nodes_.size());
  for (const auto& [name, node] : nodes_) sorted.push_back(node.get());
  std::sort(sorted.begin(), sorted.end(),
            [](const Node* a, const Node* b) { return a->address->node() < b->address->node(); });
  return sorted;
}

double Membership::HealthOf(const Node& node, absl::Time now) const {
  return std::min(1.0, node.health + kHealthPerSecond * absl::ToDoubleSeconds(now - node.health_at));
}

uint32_t Membership::TrustPercent(const Node& node, absl::Time now) const {
  const double age = absl::FDivDuration(now - node.newcomer_since, kNewcomerTime);
  const double grown = std::min(1.0, kNewcomerShare + (1 - kNewcomerShare) * age);
  return static_cast<uint32_t>(100 * grown * HealthOf(node, now));
}

void Membership::TakeReport(const v1::PeerReport& report, absl::Time now) {
  const auto found = nodes_.find(report.node());
  if (found == nodes_.end()) return;
  Node& node = *found->second;
  const uint64_t bad = uint64_t{report.deadline_misses()} + uint64_t{report.failed_proofs()} * kProofReads;
  const uint64_t reads = std::max<uint64_t>(report.reads(), bad);
  if (reads == 0) return;
  const double share = 1 - std::pow(1 - kReadShare, static_cast<double>(reads));
  const double good = 1 - static_cast<double>(bad) / static_cast<double>(reads);
  const double before = HealthOf(node, now);
  node.health = before + share * (good - before);
  node.health_at = now;
}

std::shared_ptr<const MemberView> Membership::View(absl::Time now) const {
  MutexLock lock(mutex_);
  if (view_ == nullptr || now > view_until_ || now < view_made_) view_ = MakeView(now);
  return view_;
}

std::shared_ptr<const MemberView> Membership::MakeView(absl::Time now) const {
  auto view = std::make_shared<MemberView>();
  view_made_ = now;
  view_until_ = now + options_.heartbeat;
  const auto use = [&view](const std::optional<SlotHandle>& handle, MemberView::Use how) {
    if (!handle) return;
    if (view->slots.size() <= handle->slot) view->slots.resize(handle->slot + size_t{1});
    const auto last = view->nodes.empty() ? 0 : view->nodes.size() - 1;
    view->slots[handle->slot] = {.use = how, .node = static_cast<uint16_t>(last)};
  };
  absl::flat_hash_map<absl::string_view, uint32_t> hosts;
  for (const Node* node : ByName()) {
    if (IsLost(*node, now)) {
      use(node->served, MemberView::Use::kLost);
      use(node->filling, MemberView::Use::kLost);
      continue;
    }
    const auto host = hosts.try_emplace(node->address->host_id(), static_cast<uint32_t>(hosts.size())).first->second;
    // What is about to end is asked last, like what is not trusted.
    const uint32_t trust = node->last_beat.draining() ? 0 : TrustPercent(*node, now);
    view->nodes.push_back({.address = node->address,
                           .host = host,
                           .trust_percent = trust,
                           .weight = std::max<uint32_t>(1, trust * 8 / (8 + node->last_beat.reads_active()))});
    const absl::Time counts_until = node->whole_at + options_.stale_max;
    use(node->served, now <= counts_until ? MemberView::Use::kCounts : MemberView::Use::kUncertain);
    use(node->filling, MemberView::Use::kUncertain);
    if (now <= counts_until) view_until_ = std::min(view_until_, counts_until);
    view_until_ = std::min(view_until_, node->heard + options_.stale_max);
  }
  view->history_whole = !view->nodes.empty() && !history_lost_;
  return view;
}

v1::Truth Membership::Truth(absl::Time now) const {
  v1::Truth truth;
  MutexLock lock(mutex_);
  std::vector<const Node*> lagging;
  size_t here = 0;
  for (const auto& [name, node] : nodes_) {
    if (IsLost(*node, now)) continue;
    ++here;
    if (!IsExact(*node, now)) lagging.push_back(node.get());
  }
  std::sort(lagging.begin(), lagging.end(),
            [](const Node* a, const Node* b) { return a->address->node() < b->address->node(); });
  for (const Node* node : lagging) {
    v1::Truth::Lag* lag = truth.add_lagging();
    lag->set_node(node->address->node());
    lag->set_lag_ms(Millis(now - node->exact_at));
  }
  // Whoever hears no one, or has just come back to a cluster that was there before, does not know whom it lacks.
  const bool settled = !restarted_ || now - options_.started > options_.stale_max;
  truth.set_exact(here > 0 && settled && lagging.empty());
  return truth;
}

std::vector<Membership::NodeStatus> Membership::Status(absl::Time now) const {
  std::vector<NodeStatus> all;
  MutexLock lock(mutex_);
  for (const Node* node : ByName()) {
    NodeStatus& status = all.emplace_back();
    v1::DirectoryStatusReply::Node& message = status.message;
    const bool lost = IsLost(*node, now);
    const bool exact = IsExact(*node, now);
    const PrefixIndex::SlotBlocks blocks = node->served ? index_.slot_blocks(*node->served) : PrefixIndex::SlotBlocks();
    *message.mutable_address() = *node->address;
    message.set_state(lost ? "lost" : exact ? "live" : "stale");
    message.set_silent_ms(Millis(now - node->heard));
    message.set_sequence(node->applied);
    message.set_blocks_dram(blocks.pool);
    message.set_blocks_ssd(blocks.ssd);
    message.set_dram_bytes(node->hello.dram_bytes());
    message.set_dram_bytes_used(node->last_beat.dram_bytes_used());
    message.set_ssd_bytes(node->hello.ssd_bytes());
    message.set_ssd_bytes_used(node->last_beat.ssd_bytes_used());
    message.set_resyncs(node->resyncs);
    message.set_health_percent(TrustPercent(*node, now));
    message.set_draining(!lost && node->last_beat.draining());
    status.lag = lost || exact ? absl::ZeroDuration() : now - node->exact_at;
  }
  return all;
}

}  // namespace stem
