// What the node counts: each fact in one place, read by every scrape (stemcache_node_*, services/runtime/metrics_page.h) and by the
// heartbeats (v1::NodeCounters). What an Acquire of local blocks counts takes no lock and no memory.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "services/node/records/acquire_outcome.h"
#include "services/node/records/encoded_spills.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/metrics_page.h"
#include "stemcache/v1/counters.pb.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

namespace v1 = ::stemcache::v1;

// Steps of a request, as architecture words.
enum class Stage { kAcquire, kMatch, kLease, kRead, kPromote, kProve, kReserve, kCommit, kSpill, kAwait };
const char* StageName(Stage stage);            // "acquire"
const char* SourceName(v1::Source source);     // "local_dram"
// What was refused for want of room, and of which.
enum class RefusedCall { kAcquire, kReserve, kCommit, kLease };
enum class RefusedReason {
  kQueueFull,  // too many calls wait for a thread
  kNoSlot,     // everything in DRAM is in use, or waits for the SSD
  kNoParent,   // the block before it is not held here
  kLimit,      // sessions, calls of a session, staging, or leases
  kPeer,       // another node refused its lease
  kDraining,   // the node takes nothing new
};

// The words for the call and the reason number `index`, in CounterSet order.
std::pair<const char*, const char*> RefusalNames(size_t index);

// One Acquire that ended: all of it landed, was lost, or was left behind.
struct EndedAcquire {
  const Space& space;
  const AcquireOutcome& outcome;
  uint64_t parts_asked = 1;      // of each block
  absl::Duration block_compute;  // of a whole block; zero = not known
};

// Threads: any.
class NodeMetrics {
 public:
  // Namespaces, tenants and peers that have labels of their own; others are counted together as "other".
  static constexpr size_t kLabelsMax = 64;

  // `node`: this node's name. `counts`: see NodeConfig.
  explicit NodeMetrics(std::string node, bool counts = true);
  NodeMetrics(const NodeMetrics&) = delete;
  NodeMetrics& operator=(const NodeMetrics&) = delete;

  // Tokens are blocks times block_tokens times the share of the parts that were asked, rounded so that hits and misses add up to what was
  // asked.
  void CountAcquire(const EndedAcquire& acquire);
  // Payloads that a client has copied or read with proof.
  void CountLoaded(const Space& space, uint64_t payloads);
  // Payloads that came from a client.
  void CountPublished(const Space& space, uint64_t payloads);
  void CountSpilled(uint64_t payloads) { spilled_.fetch_add(payloads, std::memory_order_relaxed); }
  // What was spilled of a namespace that does not keep its payloads as they are.
  void CountEncoded(const Space& space, const EncodedSpills& spilled);
  void AddBytes(v1::BytePath path, uint64_t bytes) {
    if (counts_) bytes_.Add(static_cast<size_t>(path), bytes);
  }
  // How long `path` was busy, added up over what went beside each other.
  void AddSeconds(v1::BytePath path, absl::Duration time);
  // A run of blocks that was read from `peer`.
  void CountPeerRead(const std::string& peer, uint64_t bytes, absl::Duration time);
  // What was read from each peer so far.
  std::vector<v1::NodeStatusReply::Link> Links() const;
  // What was spilled encoded so far, by namespace.
  std::vector<v1::NodeStatusReply::EncodedSpill> Encoded() const;
  void Observe(Stage stage, absl::Duration time) {
    if (counts_) stages_[static_cast<size_t>(stage)].Observe(time);
  }
  // A call's time ran out in `stage`.
  void CountDeadlineMiss(Stage stage) { deadlines_.Add(static_cast<size_t>(stage)); }
  // `tier`: where the bad copy was: dram, ssd, remote (a peer's), or the reader (client, peer) whose copy alone was bad. `holder`: the
  // node that has it; empty = this one.
  void CountIntegrityFailure(absl::string_view tier, absl::string_view holder = {});
  // `outcome` of blocks that were to be copied out of a host peer's memory: copied, failed, or put_off until
  // the chain goes on here, as too much waited.
  void CountCopies(absl::string_view outcome, uint64_t blocks);
  void CountScrubbed(uint64_t blocks) { scrubbed_.fetch_add(blocks, std::memory_order_relaxed); }
  void CountRefused(RefusedCall call, RefusedReason reason, uint64_t blocks);
  // `outcome` of an acquire that would compute: ours, waited (somebody else's ended), too_long or unanswered.
  void CountSingleFlight(absl::string_view outcome);
  // A block that left a tier. Counted as evicted unless its bytes were bad or it was withdrawn.
  void CountLeft(const BlockLeft& left);
  // `what`: lease or reservation.
  void CountExpired(absl::string_view what, uint64_t count);
  uint64_t integrity_failures() const { return integrity_failures_.load(std::memory_order_relaxed); }

  // What heartbeats tell of this, since this node began: a few microseconds. Of tenants the kLabelsMax that asked most, without their memory;
  // what pools count is not in it.
  v1::NodeCounters Counters() const;
  // The same and more, for a scrape.
  void Fill(MetricsPage& page) const;
  // Of what left each tier; with the names of their policies.
  void FillEvictions(MetricsPage& page, const std::string& dram_policy, const std::string& ssd_policy) const;

 private:
  // Of one namespace, or of a tenant's namespaces beyond kLabelsMax. What was asked is what was hit and missed.
  struct Traffic {
    std::string space;
    std::string tenant;
    std::atomic<uint64_t> acquires{0};
    std::array<std::atomic<uint64_t>, v1::Source_ARRAYSIZE> hit_blocks = {};
    std::array<std::atomic<uint64_t>, v1::Source_ARRAYSIZE> hit_tokens = {};
    std::array<std::atomic<uint64_t>, v1::MissCause_ARRAYSIZE> missed_blocks = {};
    std::array<std::atomic<uint64_t>, v1::MissCause_ARRAYSIZE> missed_tokens = {};
    std::atomic<uint64_t> loaded_tokens{0};
    std::atomic<uint64_t> published_payloads{0};
    std::atomic<uint64_t> prefill_saved_us{0};
  };
  struct PeerReads {
    uint64_t bytes = 0;
    absl::Duration time;
  };

  struct Encoding {
    SpillEncoding encoding = SpillEncoding::kExact;  // kExact where namespaces of several are counted together
    EncodedSpills spilled;
  };

  Traffic& Of(const Space& space);
  Traffic& AddSpace(const Space& space);
  void FillTraffic(MetricsPage& page, const Traffic& traffic) const;
  void FillEncoded(MetricsPage& page) const;
  void FillBlocks(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FillPaths(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string node_;
  const bool counts_;
  std::array<std::atomic<Traffic*>, kSpacesMax> traffic_of_ = {};  // by Space::number; null until its first count
  CounterSet bytes_;      // by v1::BytePath
  CounterSet busy_us_;    // by v1::BytePath
  CounterSet deadlines_;  // by Stage
  CounterSet refused_;    // by RefusedCall and RefusedReason
  CounterSet copies_;
  CounterSet single_flight_;
  CounterSet expired_;
  CounterSet evicted_;  // from DRAM to the SSD, from DRAM, from the SSD
  DurationHistogram dram_age_{AgeBuckets()};
  DurationHistogram ssd_age_{AgeBuckets()};
  std::atomic<uint64_t> scrubbed_{0};
  std::atomic<uint64_t> spilled_{0};
  std::atomic<uint64_t> deadline_acquires_{0};  // that lost blocks to their deadline
  std::atomic<uint64_t> integrity_failures_{0};
  std::array<DurationHistogram, 10> stages_;  // by Stage
  mutable Mutex mutex_;  // of what is rare
  std::vector<std::unique_ptr<Traffic>> traffic_ ABSL_GUARDED_BY(mutex_);
  std::map<const Traffic*, Encoding> encoded_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, PeerReads> peers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, std::string>, uint64_t> integrity_ ABSL_GUARDED_BY(mutex_);  // by tier and holder
};

}  // namespace stem
