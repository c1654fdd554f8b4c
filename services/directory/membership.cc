#include "services/directory/membership.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

uint32_t Millis(absl::Duration duration) {
  return static_cast<uint32_t>(std::clamp<int64_t>(absl::ToInt64Milliseconds(duration), 0, UINT32_MAX));
}

}  // namespace

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
  if (node->filling) index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
  node->filling.reset();
  node->whole = false;
  ++node->resyncs;
}

void Membership::Beat(const StreamTicket& ticket, const v1::Heartbeat& heartbeat, absl::Time now) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  node->last_beat = heartbeat;
  if (node->whole && node->applied >= heartbeat.sequence()) node->exact_at = now;
}

void Membership::Leave(const StreamTicket& ticket) {
  MutexLock lock(mutex_);
  Node* node = Find(ticket);
  if (node == nullptr) return;
  if (node->filling) index_.CloseSlot(*node->filling, SlotEnd::kSuperseded);
  node->filling.reset();
  node->connected = false;
  node->whole = false;
}

bool Membership::IsLost(const Node& node, absl::Time now) const {
  return node.lost || now - node.heard > options_.stale_max;
}

bool Membership::IsExact(const Node& node, absl::Time now) const {
  return node.whole && now - node.heard <= options_.heartbeat && node.applied >= node.last_beat.sequence();
}

size_t Membership::Tick(absl::Time now) {
  MutexLock lock(mutex_);
  size_t dropped = 0;
  for (auto& [name, node] : nodes_) {
    if (node->lost || !IsLost(*node, now)) continue;
    CloseSlots(*node, SlotEnd::kLost);
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

MemberView Membership::View(absl::Time now) const {
  MemberView view;
  const auto use = [&view](const std::optional<SlotHandle>& handle, MemberView::Use how) {
    if (!handle) return;
    if (view.slots.size() <= handle->slot) view.slots.resize(handle->slot + size_t{1});
    const auto last = view.nodes.empty() ? 0 : view.nodes.size() - 1;
    view.slots[handle->slot] = {.use = how, .node = static_cast<uint16_t>(last)};
  };
  MutexLock lock(mutex_);
  bool exact = false;
  for (const Node* node : ByName()) {
    if (IsLost(*node, now)) {
      use(node->served, MemberView::Use::kLost);
      use(node->filling, MemberView::Use::kLost);
      continue;
    }
    view.nodes.push_back(node->address);
    const bool counts = now - node->whole_at <= options_.stale_max;
    use(node->served, counts ? MemberView::Use::kCounts : MemberView::Use::kUncertain);
    use(node->filling, MemberView::Use::kUncertain);
    exact = true;
    if (IsExact(*node, now)) continue;
    v1::Truth::Lag* lag = view.truth.add_lagging();
    lag->set_node(node->address->node());
    lag->set_lag_ms(Millis(now - node->exact_at));
  }
  // Whoever hears no one, or has just come back to a cluster that was there before, does not know whom it lacks.
  const bool settled = !restarted_ || now - options_.started > options_.stale_max;
  view.truth.set_exact(exact && settled && view.truth.lagging().empty());
  view.history_whole = exact && !history_lost_;
  return view;
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
    status.lag = lost || exact ? absl::ZeroDuration() : now - node->exact_at;
  }
  return all;
}

}  // namespace stem
