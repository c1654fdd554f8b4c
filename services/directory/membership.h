// Who is there: nodes by name, which stream speaks for each, which slot of the index holds what it said, and for how
// long that counts. Plain: takes `now` from a monotonic clock, never reads one.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "services/directory/prefix_index.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

struct MembershipOptions {
  absl::Duration heartbeat = absl::Milliseconds(100);  // nodes speak twice as often
  absl::Duration stale_max = absl::Seconds(2);         // how long what a silent or gapped node said counts
  absl::Time started;                                  // of this directory
};

// The right to speak for a node, given to one stream by Join; the next Join of the same name takes it away.
struct StreamTicket {
  std::string node;
  uint64_t stream = 0;
};

// What a match needs to know of the members, at one moment.
struct MemberView {
  enum class Use : uint8_t {
    kNone,      // no one's
    kCounts,    // what it says is offered
    kUncertain, // a snapshot is not whole yet, or a gap is too old
    kLost,      // silent for too long
  };
  struct Slot {
    Use use = Use::kNone;
    uint16_t node = 0;  // index into `nodes`
  };
  struct Node {
    std::shared_ptr<const stemcache::v1::NodeAddress> address;
    uint32_t host = 0;  // equal for nodes that share a kernel
    // How often, of 100 times, it is treated as sound: lower after late reads and failed proofs, and for newcomers.
    uint32_t trust_percent = 100;
    uint32_t weight = 100;  // its share among equals: less when it serves many reads now
  };
  std::vector<Slot> slots;  // by NodeSlot
  std::vector<Node> nodes;  // not lost, by name
  bool history_whole = false;  // every departure was heard here: what has no ghost was never held

  // Index into `nodes`; UINT32_MAX for one that is not there.
  uint32_t IndexOf(const std::string& node) const;
};

class Membership {
 public:
  static constexpr size_t kNodesMax = 16384;  // each may need two slots of the index at a time

  // Borrows `index`, in which it opens and closes slots.
  Membership(PrefixIndex& index, const MembershipOptions& options);
  Membership(const Membership&) = delete;
  Membership& operator=(const Membership&) = delete;

  // Threads: all methods, any.

  // `hello` is validated. The same incarnation goes on: what it said counts as stale until a snapshot is whole.
  // Another one ends it at once. Errors: FailedPrecondition (an incarnation that was replaced), ResourceExhausted.
  absl::StatusOr<StreamTicket> Join(const stemcache::v1::Hello& hello, absl::Time now);

  enum class Standing {
    kCurrent,
    kDropped,     // was given up for silence in between: only a snapshot helps
    kSuperseded,  // another stream speaks for the node
  };
  // A message came. Every other call with a ticket that is not current changes nothing.
  Standing Heard(const StreamTicket& ticket, absl::Time now);

  // Opens the slot that the snapshot fills. Errors: ResourceExhausted, Aborted (superseded).
  absl::StatusOr<SlotHandle> BeginSnapshot(const StreamTicket& ticket);
  // The snapshot of `adds` blocks is whole: its slot takes the place of what the node said before.
  void EndSnapshot(const StreamTicket& ticket, uint64_t sequence, uint64_t adds, absl::Time now);
  // Everything up to `sequence` is applied.
  void Applied(const StreamTicket& ticket, uint64_t sequence, absl::Time now);
  // A change was missed: what the node said is stale from here on, until a snapshot is whole.
  void Gapped(const StreamTicket& ticket);
  void Beat(const StreamTicket& ticket, const stemcache::v1::Heartbeat& heartbeat, absl::Time now);
  // The stream ended.
  void Leave(const StreamTicket& ticket);

  // Gives up nodes that were silent for longer than stale_max, or for ten times that while their stream stands (they are out of
  // sight all the same). Returns how many.
  size_t Tick(absl::Time now);

  // As it is now, or was less than a heartbeat ago in what is not about who holds what.
  std::shared_ptr<const MemberView> View(absl::Time now) const;
  stemcache::v1::Truth Truth(absl::Time now) const;

  struct NodeStatus {
    stemcache::v1::DirectoryStatusReply::Node message;
    absl::Duration lag;  // since last heard, whole and up to date; zero when lost
  };
  std::vector<NodeStatus> Status(absl::Time now) const;  // by name

 private:
  struct Node {
    std::shared_ptr<const stemcache::v1::NodeAddress> address;
    stemcache::v1::Hello hello;
    stemcache::v1::Heartbeat last_beat;
    uint64_t stream = 0;
    bool connected = false;
    bool lost = false;
    bool whole = false;                 // `served` is kept up without a gap
    std::optional<SlotHandle> served;   // from the last whole snapshot on
    std::optional<SlotHandle> filling;  // the snapshot that is coming in
    absl::Time heard;
    absl::Time whole_at;  // last heard while whole
    absl::Time exact_at;  // last heard while whole and up to date with its heartbeat
    uint64_t applied = 0;
    uint64_t resyncs = 0;
    std::deque<uint64_t> replaced;  // incarnations, newest last, at most kReplacedMax
    absl::Time newcomer_since = absl::InfinitePast();  // joined a cluster that was running
    double health = 1;               // 0..1, at health_at
    absl::Time health_at = absl::InfinitePast();
  };
  static constexpr size_t kReplacedMax = 8;

  Node* Find(const StreamTicket& ticket) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Node*> FindOrMake(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseSlots(Node& node, SlotEnd end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsLost(const Node& node, absl::Time now) const;
  bool IsExact(const Node& node, absl::Time now) const;
  std::vector<const Node*> ByName() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double HealthOf(const Node& node, absl::Time now) const;
  uint32_t TrustPercent(const Node& node, absl::Time now) const;
  void TakeReport(const stemcache::v1::PeerReport& report, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<const MemberView> MakeView(absl::Time now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  PrefixIndex& index_;
  const MembershipOptions options_;
  mutable Mutex mutex_;
  absl::flat_hash_map<std::string, std::unique_ptr<Node>> nodes_ ABSL_GUARDED_BY(mutex_);
  uint64_t streams_ ABSL_GUARDED_BY(mutex_) = 0;
  bool history_lost_ ABSL_GUARDED_BY(mutex_) = false;  // a departure was not heard
  bool restarted_ ABSL_GUARDED_BY(mutex_) = false;     // a node was here before this directory
  // The last view, until a slot changes hands or time passes.
  mutable std::shared_ptr<const MemberView> view_ ABSL_GUARDED_BY(mutex_);
  mutable absl::Time view_made_ ABSL_GUARDED_BY(mutex_);
  mutable absl::Time view_until_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
