#include "services/node/records/metrics.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

constexpr char kOther[] = "other";
constexpr std::array<const char*, v1::Source_ARRAYSIZE> kSources = {"", "local_dram", "remote_dram", "local_ssd", "remote_ssd"};
constexpr std::array<const char*, v1::BytePath_ARRAYSIZE> kPaths = {"", "local", "same_host", "remote", "ssd_read", "ssd_write", "publish"};
// Where the node moves bytes; what it only lends, its clients copy.
constexpr std::array<const char*, v1::BytePath_ARRAYSIZE> kBusyPaths = {"", "", "", "remote", "ssd_read", "ssd_write", "publish"};
constexpr std::array<const char*, 10> kStages = {"acquire", "match",   "lease",  "read",  "promote",
                                                 "prove",   "reserve", "commit", "spill", "await"};
constexpr std::array<const char*, 4> kCalls = {"acquire", "reserve", "commit", "lease"};
constexpr std::array<const char*, 6> kReasons = {"queue_full", "no_slot", "no_parent", "limit", "peer", "draining"};
constexpr std::array<const char*, 3> kCopies = {"copied", "failed", "put_off"};
constexpr std::array<const char*, 4> kFlights = {"ours", "waited", "too_long", "unanswered"};
constexpr std::array<const char*, 3> kEvictions = {"ssd", "gone", "gone"};  // where they went
constexpr std::array<const char*, 2> kExpirable = {"lease", "reservation"};

void Add(std::atomic<uint64_t>& counter, uint64_t amount) {
  if (amount > 0) counter.fetch_add(amount, std::memory_order_relaxed);
}

uint64_t TokensOf(const Space& space, uint64_t blocks, uint64_t parts) {
  return blocks * space.spec.block_tokens * parts / space.spec.parts.size();
}

}  // namespace

const char* SourceName(v1::Source source) { return kSources.at(static_cast<size_t>(source)); }

std::pair<const char*, const char*> RefusalNames(size_t index) {
  return {kCalls.at(index / kReasons.size()), kReasons.at(index % kReasons.size())};
}

const char* StageName(Stage stage) { return kStages.at(static_cast<size_t>(stage)); }

NodeMetrics::NodeMetrics(std::string node, bool counts)
    : node_(std::move(node)),
      counts_(counts),
      bytes_(kPaths),
      busy_us_(kBusyPaths),
      deadlines_(kStages),
      refused_(std::vector<const char*>(kCalls.size() * kReasons.size(), "")),
      copies_(kCopies),
      single_flight_(kFlights),
      expired_(kExpirable),
      evicted_(kEvictions) {
  for (const char* tier : {"dram", "ssd", "client", "peer"}) integrity_[{tier, node_}] = 0;  // shown while 0
}

// ---- Counting -----------------------------------------------------------------------------------------------------------

NodeMetrics::Traffic& NodeMetrics::Of(const Space& space) {
  Traffic* const known = traffic_of_.at(space.number).load(std::memory_order_acquire);
  return known != nullptr ? *known : AddSpace(space);
}

NodeMetrics::Traffic& NodeMetrics::AddSpace(const Space& space) {
  MutexLock lock(mutex_);
  std::string name = absl::StrCat(LabelText(space.spec.model), "@", space.fingerprint.ToHex().substr(0, 8));
  std::string tenant = LabelText(space.memory->group.name);
  std::set<absl::string_view> names, tenants;
  for (const auto& traffic : traffic_) {
    if (traffic->space != kOther) names.insert(traffic->space);
    if (traffic->tenant != kOther) tenants.insert(traffic->tenant);
  }
  if (names.size() >= kLabelsMax) name = kOther;
  if (tenants.size() >= kLabelsMax && !tenants.contains(tenant)) tenant = kOther;
  const auto same = std::find_if(traffic_.begin(), traffic_.end(), [&](const auto& each) { return each->space == name && each->tenant == tenant; });
  Traffic* traffic = same != traffic_.end() ? same->get() : nullptr;
  if (traffic == nullptr) {
    traffic = traffic_.emplace_back(std::make_unique<Traffic>()).get();
    traffic->space = std::move(name);
    traffic->tenant = std::move(tenant);
  }
  traffic_of_.at(space.number).store(traffic, std::memory_order_release);
  return *traffic;
}

void NodeMetrics::CountAcquire(const EndedAcquire& acquire) {
  if (!counts_) return;
  const AcquireOutcome::Counts counts = acquire.outcome.counts();
  Traffic& traffic = Of(acquire.space);
  // Differences of tokens of the first n blocks add up whatever the share of a part is.
  uint64_t blocks = 0, tokens = 0, blocks_hit = 0;
  const auto take = [&](uint64_t more) {
    blocks += more;
    const uint64_t before = std::exchange(tokens, TokensOf(acquire.space, blocks, acquire.parts_asked));
    return tokens - before;
  };
  for (size_t source = 0; source < counts.hits.size(); ++source) {
    Add(traffic.hit_blocks[source], counts.hits[source]);
    Add(traffic.hit_tokens[source], take(counts.hits[source]));
    blocks_hit += counts.hits[source];
  }
  for (size_t cause = 0; cause < counts.misses.size(); ++cause) {
    Add(traffic.missed_blocks[cause], counts.misses[cause]);
    Add(traffic.missed_tokens[cause], take(counts.misses[cause]));
  }
  Add(traffic.acquires, 1);
  Add(traffic.prefill_saved_us, static_cast<uint64_t>(absl::ToInt64Microseconds(acquire.block_compute)) * blocks_hit *
                                    acquire.parts_asked / acquire.space.spec.parts.size());
  Add(deadline_acquires_, counts.misses[v1::MISS_CAUSE_DEADLINE] > 0 ? 1 : 0);
}

void NodeMetrics::CountLoaded(const Space& space, uint64_t payloads) {
  if (counts_) Add(Of(space).loaded_tokens, TokensOf(space, payloads, 1));
}

void NodeMetrics::CountPublished(const Space& space, uint64_t payloads) { Add(Of(space).published_payloads, payloads); }

void NodeMetrics::CountEncoded(const Space& space, const EncodedSpills& spilled) {
  const Traffic* const traffic = &Of(space);
  MutexLock lock(mutex_);
  const auto [at, first] = encoded_.try_emplace(traffic, Encoding{.encoding = space.spec.spill_encoding, .spilled = {}});
  if (!first && at->second.encoding != space.spec.spill_encoding) at->second.encoding = SpillEncoding::kExact;
  at->second.spilled.Add(spilled);
}

std::vector<v1::NodeStatusReply::EncodedSpill> NodeMetrics::Encoded() const {
  MutexLock lock(mutex_);
  std::vector<v1::NodeStatusReply::EncodedSpill> out;
  for (const auto& [traffic, encoding] : encoded_) {
    v1::NodeStatusReply::EncodedSpill& shown = out.emplace_back();
    shown.set_namespace_(traffic->space);
    shown.set_tenant(traffic->tenant);
    shown.set_encoding(static_cast<v1::SpillEncoding>(encoding.encoding));
    shown.set_payloads(encoding.spilled.payloads);
    shown.set_payload_bytes(encoding.spilled.payload_bytes);
    shown.set_record_bytes(encoding.spilled.record_bytes);
    shown.set_payloads_kept(encoding.spilled.payloads_kept);
    shown.set_payloads_sampled(encoding.spilled.samples);
    shown.set_relative_error(encoding.spilled.error.relative());
    shown.set_largest_error(encoding.spilled.error.largest);
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return std::tie(a.namespace_(), a.tenant()) < std::tie(b.namespace_(), b.tenant()); });
  return out;
}

void NodeMetrics::AddSeconds(v1::BytePath path, absl::Duration time) {
  busy_us_.Add(static_cast<size_t>(path), static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Microseconds(time), 0)));
}

void NodeMetrics::CountPeerRead(const std::string& peer, uint64_t bytes, absl::Duration time) {
  MutexLock lock(mutex_);
  const bool known = peers_.contains(LabelText(peer)) || peers_.size() < kLabelsMax;
  PeerReads& reads = peers_[known ? LabelText(peer) : kOther];
  integrity_.try_emplace({"remote", LabelText(known ? peer : kOther)}, 0);  // shown while 0
  reads.bytes += bytes;
  reads.time += std::max(time, absl::ZeroDuration());
}

std::vector<v1::NodeStatusReply::Link> NodeMetrics::Links() const {
  MutexLock lock(mutex_);
  std::vector<v1::NodeStatusReply::Link> links;
  for (const auto& [peer, reads] : peers_) {
    v1::NodeStatusReply::Link& link = links.emplace_back();
    link.set_peer(peer);
    link.set_bytes(reads.bytes);
    link.set_busy_us(static_cast<uint64_t>(absl::ToInt64Microseconds(reads.time)));
  }
  return links;
}

void NodeMetrics::CountIntegrityFailure(absl::string_view tier, absl::string_view holder) {
  integrity_failures_.fetch_add(1, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  std::pair<std::string, std::string> where(tier, holder.empty() ? node_ : LabelText(holder));
  if (!integrity_.contains(where) && integrity_.size() >= kLabelsMax) where.second = kOther;
  ++integrity_[std::move(where)];
}

void NodeMetrics::CountCopies(absl::string_view outcome, uint64_t blocks) { copies_.Add(outcome, blocks); }

void NodeMetrics::CountRefused(RefusedCall call, RefusedReason reason, uint64_t blocks) {
  refused_.Add(static_cast<size_t>(call) * kReasons.size() + static_cast<size_t>(reason), blocks);
}

void NodeMetrics::CountSingleFlight(absl::string_view outcome) { single_flight_.Add(outcome); }

void NodeMetrics::CountLeft(const BlockLeft& left) {
  if (left.reason == GoneReason::kIntegrity || left.reason == GoneReason::kWithdrawn) return;
  const bool dram = left.from == Residence::kDram;
  evicted_.Add(!dram ? 2 : left.reason == GoneReason::kNone ? 0 : 1);
  (dram ? dram_age_ : ssd_age_).Observe(left.age);
}

void NodeMetrics::CountExpired(absl::string_view what, uint64_t count) { expired_.Add(what, count); }

}  // namespace stem
