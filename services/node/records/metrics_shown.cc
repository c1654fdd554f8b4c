// The reading side of NodeMetrics: for scrapes and for heartbeats.
#include <algorithm>
#include <numeric>
#include <utility>

#include "proto/miss_cause.h"
#include "services/node/records/metrics.h"

namespace stem {
namespace {

uint64_t Read(const std::atomic<uint64_t>& counter) { return counter.load(std::memory_order_relaxed); }

// What the fleet held when it was asked, though it was not served.
constexpr std::array kHeld = {v1::MISS_CAUSE_REFUSED, v1::MISS_CAUSE_DEADLINE, v1::MISS_CAUSE_INTEGRITY, v1::MISS_CAUSE_RECOMPUTE_CHEAPER,
                              v1::MISS_CAUSE_UNREACHABLE};
// What it had held before.
constexpr std::array kWasHeld = {v1::MISS_CAUSE_NODE_LOST, v1::MISS_CAUSE_SPILL_REJECTED, v1::MISS_CAUSE_EVICTED};

template <typename Counts>
uint64_t Sum(const Counts& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0}, [](uint64_t sum, const auto& each) { return sum + Read(each); });
}

}  // namespace

v1::NodeCounters NodeMetrics::Counters() const {
  v1::NodeCounters out;
  out.mutable_tokens_hit()->Resize(v1::Source_ARRAYSIZE, 0);
  out.mutable_tokens_missed()->Resize(v1::MissCause_ARRAYSIZE, 0);
  std::map<std::string, v1::NodeCounters::Tenant> tenants;
  {
    MutexLock lock(mutex_);
    for (const auto& traffic : traffic_) {
      out.set_requests(out.requests() + Read(traffic->acquires));
      out.set_prefill_saved_us(out.prefill_saved_us() + Read(traffic->prefill_saved_us));
      out.set_blocks_published(out.blocks_published() + Read(traffic->published_payloads));
      v1::NodeCounters::Tenant& tenant = tenants[traffic->tenant];
      // What is asked is added up of what is counted after it, so that a count under way never breaks the sum.
      for (int i = 0; i < v1::Source_ARRAYSIZE; ++i) {
        const uint64_t tokens = Read(traffic->hit_tokens.at(static_cast<size_t>(i)));
        out.set_tokens_hit(i, out.tokens_hit(i) + tokens);
        tenant.set_tokens_hit(tenant.tokens_hit() + tokens);
        tenant.set_tokens_asked(tenant.tokens_asked() + tokens);
      }
      for (int i = 0; i < v1::MissCause_ARRAYSIZE; ++i) {
        const uint64_t tokens = Read(traffic->missed_tokens.at(static_cast<size_t>(i)));
        out.set_tokens_missed(i, out.tokens_missed(i) + tokens);
        tenant.set_tokens_asked(tenant.tokens_asked() + tokens);
      }
    }
  }
  for (size_t i = 0; i < bytes_.size(); ++i) out.add_bytes(bytes_.Get(i));
  for (size_t i = 0; i < refused_.size(); ++i) out.set_blocks_refused(out.blocks_refused() + refused_.Get(i));
  out.set_deadline_misses(Read(deadline_acquires_));
  out.set_integrity_failures(integrity_failures());
  out.set_blocks_spilled(Read(spilled_));
  std::vector<v1::NodeCounters::Tenant> busiest;
  for (auto& [name, tenant] : tenants) {
    out.set_tokens_asked(out.tokens_asked() + tenant.tokens_asked());
    tenant.set_tenant(name);
    busiest.push_back(std::move(tenant));
  }
  std::stable_sort(busiest.begin(), busiest.end(), [](const auto& a, const auto& b) { return a.tokens_asked() > b.tokens_asked(); });
  if (busiest.size() > kLabelsMax) busiest.resize(kLabelsMax);
  for (v1::NodeCounters::Tenant& tenant : busiest) *out.add_tenants() = std::move(tenant);
  return out;
}

void NodeMetrics::FillTraffic(MetricsPage& page, const Traffic& traffic) const {
  const MetricLabels whose = {{"namespace", traffic.space}, {"tenant", traffic.tenant}};
  const auto with = [&](const char* label, const std::string& value) {
    MetricLabels labels = whose;
    labels.push_back({label, value});
    return labels;
  };
  const auto counter = [&](const std::string& name, const char* help, uint64_t value, MetricLabels labels) {
    page.Counter("stemcache_node_" + name, help, static_cast<double>(value), std::move(labels));
  };
  uint64_t held = 0, was_held = 0;
  for (const v1::MissCause cause : kHeld) held += Read(traffic.missed_tokens.at(cause));
  for (const v1::MissCause cause : kWasHeld) was_held += Read(traffic.missed_tokens.at(cause));
  const uint64_t hit = Sum(traffic.hit_tokens);
  const uint64_t asked = hit + Sum(traffic.missed_tokens);
  counter("acquires_total", "Lookups: acquires of clients that ended", Read(traffic.acquires), whose);
  counter("asked_tokens_total", "Tokens that clients asked for; every token is then hit or missed", asked, whose);
  for (size_t i = 1; i < traffic.hit_tokens.size(); ++i) {
    counter("hit_tokens_total", "Tokens served, by where they came from", Read(traffic.hit_tokens[i]),
            with("source", SourceName(static_cast<v1::Source>(i))));
  }
  for (size_t i = 1; i < traffic.missed_tokens.size(); ++i) {
    counter("missed_tokens_total", "Tokens missed, each by exactly one cause", Read(traffic.missed_tokens[i]),
            with("cause", CauseName(static_cast<v1::MissCause>(i))));
  }
  const std::pair<const char*, uint64_t> funnel[] = {{"asked", asked},
                                                     {"reusable", hit + held + was_held},
                                                     {"held", hit + held},
                                                     {"acquired", hit},
                                                     {"loaded", Read(traffic.loaded_tokens)}};
  for (const auto& [stage, tokens] : funnel) {
    counter("funnel_tokens_total", "Tokens asked; reusable if nothing had left; held by the fleet; acquired; loaded by the client", tokens,
            with("stage", stage));
  }
  page.Counter("stemcache_node_prefill_saved_seconds_total", "Prefill that hits saved, as their engines told how long a block takes",
               static_cast<double>(Read(traffic.prefill_saved_us)) / 1e6, whose);
  counter("published_blocks_total", "Blocks, counted by part, that clients published here", Read(traffic.published_payloads), whose);
}

void NodeMetrics::FillBlocks(MetricsPage& page) const {
  std::array<uint64_t, v1::Source_ARRAYSIZE> hits = {};
  std::array<uint64_t, v1::MissCause_ARRAYSIZE> misses = {};
  for (const auto& traffic : traffic_) {
    for (size_t i = 0; i < hits.size(); ++i) hits.at(i) += Read(traffic->hit_blocks.at(i));
    for (size_t i = 0; i < misses.size(); ++i) misses.at(i) += Read(traffic->missed_blocks.at(i));
  }
  const uint64_t asked = std::accumulate(hits.begin(), hits.end(), uint64_t{0}) + std::accumulate(misses.begin(), misses.end(), uint64_t{0});
  page.Counter("stemcache_node_asked_blocks_total", "Blocks that clients asked for", static_cast<double>(asked));
  for (size_t i = 1; i < hits.size(); ++i) {
    page.Counter("stemcache_node_hit_blocks_total", "Blocks served, by where they came from", static_cast<double>(hits[i]),
                 {{"source", SourceName(static_cast<v1::Source>(i))}});
  }
  for (size_t i = 1; i < misses.size(); ++i) {
    page.Counter("stemcache_node_missed_blocks_total", "Blocks missed, each by exactly one cause", static_cast<double>(misses[i]),
                 {{"cause", CauseName(static_cast<v1::MissCause>(i))}});
  }
}

void NodeMetrics::FillPaths(MetricsPage& page) const {
  page.Counters("stemcache_node_bytes_total", "Payload bytes moved, by path", "path", bytes_);
  for (size_t i = 0; i < busy_us_.size(); ++i) {
    if (busy_us_.value(i)[0] == '\0') continue;
    page.Counter("stemcache_node_busy_seconds_total", "Time spent on moving them, by path, added up over what went beside each other",
                 static_cast<double>(busy_us_.Get(i)) / 1e6, {{"path", busy_us_.value(i)}});
  }
  for (const auto& [peer, reads] : peers_) {
    page.Counter("stemcache_node_peer_read_bytes_total", "Payload bytes read from other nodes", static_cast<double>(reads.bytes), {{"peer", peer}});
    page.Counter("stemcache_node_peer_read_seconds_total", "From asking for a lease to the last byte, added up over runs",
                 absl::ToDoubleSeconds(reads.time), {{"peer", peer}});
  }
}

void NodeMetrics::FillEvictions(MetricsPage& page, const std::string& dram_policy, const std::string& ssd_policy) const {
  for (size_t i = 0; i < evicted_.size(); ++i) {
    page.Counter("stemcache_node_evicted_blocks_total", "Blocks that left a tier for space, by the policy that chose them, and where they went",
                 static_cast<double>(evicted_.Get(i)),
                 {{"tier", i < 2 ? "dram" : "ssd"}, {"policy", i < 2 ? dram_policy : ssd_policy}, {"to", evicted_.value(i)}});
  }
  for (const auto& [tier, ages] : {std::pair("dram", &dram_age_), std::pair("ssd", &ssd_age_)}) {
    page.Histogram("stemcache_node_eviction_age_seconds", "How long blocks had been in the tier that they left", *ages, {{"tier", tier}});
  }
}

void NodeMetrics::FillEncoded(MetricsPage& page) const {
  for (const v1::NodeStatusReply::EncodedSpill& each : Encoded()) {
    const MetricLabels whose = {{"namespace", each.namespace_()}, {"tenant", each.tenant()}};
    page.Counter("stemcache_node_spill_encoded_blocks_total", "Blocks, counted by part, that were written to SSD as lossy codes",
                 static_cast<double>(each.payloads()), whose);
    page.Counter("stemcache_node_spill_kept_blocks_total", "Blocks of such a namespace that were written as they are: not all values are finite",
                 static_cast<double>(each.payloads_kept()), whose);
    page.Counter("stemcache_node_spill_saved_bytes_total", "Bytes that did not have to be written to SSD, as codes are smaller",
                 static_cast<double>(each.payload_bytes() - each.record_bytes()), whose);
    page.Gauge("stemcache_node_spill_relative_error",
               "Of spilled codes, measured on a sample: root mean square of the errors over that of the values", each.relative_error(), whose);
    page.Gauge("stemcache_node_spill_largest_error",
               "The largest error in that sample, over the largest value of those that share its scale", each.largest_error(), whose);
  }
}

void NodeMetrics::Fill(MetricsPage& page) const {
  for (size_t i = 0; i < stages_.size(); ++i) {
    page.Histogram("stemcache_node_stage_seconds", "Time of each step of a request", stages_.at(i), {{"stage", StageName(static_cast<Stage>(i))}});
  }
  page.Counters("stemcache_node_deadline_misses_total", "Calls whose time ran out, by the step they were in", "stage", deadlines_);
  for (size_t i = 0; i < refused_.size(); ++i) {
    const auto [call, reason] = RefusalNames(i);
    page.Counter("stemcache_node_refused_blocks_total", "Blocks refused for want of room, by call and why", static_cast<double>(refused_.Get(i)),
                 {{"call", call}, {"reason", reason}});
  }
  page.Counters("stemcache_node_copied_blocks_total", "Blocks to be copied from a node of this host after a client read them there", "outcome",
                copies_);
  page.Counters("stemcache_node_single_flight_total", "Acquires of engines that would compute what is missing, by who does", "outcome",
                single_flight_);
  page.Counters("stemcache_node_expired_total", "Leases and reservations that ended by time: lost peers or clients", "what", expired_);
  page.Counter("stemcache_node_scrubbed_blocks_total", "Blocks in memory that were proved again", static_cast<double>(Read(scrubbed_)));
  page.Counter("stemcache_node_spilled_blocks_total", "Blocks written to the SSD tier", static_cast<double>(Read(spilled_)));
  FillEncoded(page);
  MutexLock lock(mutex_);
  for (const auto& traffic : traffic_) FillTraffic(page, *traffic);
  FillBlocks(page);
  FillPaths(page);
  for (const auto& [where, count] : integrity_) {
    page.Counter("stemcache_node_integrity_failures_total",
                 "Blocks whose proof failed, by where the bad copy was and on which node; any is an incident", static_cast<double>(count),
                 {{"tier", where.first}, {"holder", where.second}});
  }
}

}  // namespace stem
