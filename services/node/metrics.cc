#include "services/node/metrics.h"

#include "absl/time/clock.h"
#include "proto/miss_cause.h"
#include "proto/validate.h"
#include "services/runtime/metrics.h"

namespace stem {
namespace {

constexpr std::array<const char*, 5> kSources = {"", "local_dram", "remote_dram", "local_ssd", "remote_ssd"};
constexpr std::array<const char*, 6> kPaths = {"local", "same_host", "remote", "ssd_read", "ssd_write", "publish"};
constexpr std::array<const char*, 10> kStages = {"acquire", "match",   "lease",  "read",  "promote",
                                                 "prove",   "reserve", "commit", "spill", "await"};

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

}  // namespace

NodeMetrics::NodeMetrics(prometheus::Registry& registry)
    : registry_(registry),
      asked_(Counters(registry, "stemcache_node_blocks_asked_total", "Blocks that clients asked for").Add({})),
      integrity_(Counters(registry, "stemcache_node_integrity_failures_total",
                          "Blocks whose proof failed, by where the bad copy was; any is an incident")),
      refused_(Counters(registry, "stemcache_node_refused_total", "Blocks refused for want of room, by call: raise the tier")),
      expired_(Counters(registry, "stemcache_node_expired_total", "Leases and reservations that ended by time: lost peers or clients")),
      scrubbed_(Counters(registry, "stemcache_node_scrubbed_blocks_total", "Blocks in memory that were proved again").Add({})),
      copies_(Counters(registry, "stemcache_node_copies_total",
                       "Blocks to be copied from a node of this host after a client read them there, by outcome")),
      single_flight_(Counters(registry, "stemcache_node_single_flight_total",
                              "Acquires of engines that would compute what is missing, by who does")) {
  for (const char* tier : {"dram", "ssd", "remote", "client", "peer"}) integrity_.Add({{"tier", tier}});  // shown while 0
  auto& hits = Counters(registry, "stemcache_node_blocks_hit_total", "Blocks served, by where they came from");
  for (size_t i = 1; i < hits_.size(); ++i) hits_[i] = &hits.Add({{"source", kSources[i]}});
  auto& misses = Counters(registry, "stemcache_node_blocks_missed_total", "Blocks missed, each by exactly one cause");
  for (size_t i = 1; i < misses_.size(); ++i) {
    misses_[i] = &misses.Add({{"cause", CauseName(static_cast<v1::MissCause>(i))}});
  }
  auto& bytes = Counters(registry, "stemcache_node_bytes_total", "Payload bytes moved, by path");
  for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = &bytes.Add({{"path", kPaths[i]}});
  auto& stages = prometheus::BuildHistogram()
                     .Name("stemcache_node_stage_seconds")
                     .Help("Time of each step of a request")
                     .Register(registry);
  for (size_t i = 0; i < stages_.size(); ++i) stages_[i] = &stages.Add({{"stage", kStages[i]}}, LatencyBuckets());
}

void NodeMetrics::CountAsked(uint64_t blocks) { asked_.Increment(static_cast<double>(blocks)); }

void NodeMetrics::CountHits(v1::Source source, uint64_t blocks) {
  hits_.at(static_cast<size_t>(source))->Increment(static_cast<double>(blocks));
}

void NodeMetrics::CountMisses(v1::MissCause cause, uint64_t blocks) {
  misses_.at(static_cast<size_t>(cause))->Increment(static_cast<double>(blocks));
}

void NodeMetrics::AddBytes(BytePath path, uint64_t bytes) {
  bytes_.at(static_cast<size_t>(path))->Increment(static_cast<double>(bytes));
}

void NodeMetrics::Observe(Stage stage, absl::Duration time) {
  stages_.at(static_cast<size_t>(stage))->Observe(absl::ToDoubleSeconds(time));
}

void NodeMetrics::CountIntegrityFailure(absl::string_view tier) {
  integrity_.Add({{"tier", std::string(tier)}}).Increment();
  integrity_failures_.fetch_add(1);
}

void NodeMetrics::CountCopies(absl::string_view outcome, uint64_t blocks) {
  copies_.Add({{"outcome", std::string(outcome)}}).Increment(static_cast<double>(blocks));
}

void NodeMetrics::CountScrubbed(uint64_t blocks) { scrubbed_.Increment(static_cast<double>(blocks)); }

void NodeMetrics::CountRefused(absl::string_view what, uint64_t blocks) {
  refused_.Add({{"call", std::string(what)}}).Increment(static_cast<double>(blocks));
}

void NodeMetrics::CountSingleFlight(absl::string_view outcome) {
  single_flight_.Add({{"outcome", std::string(outcome)}}).Increment();
}

void NodeMetrics::CountExpired(absl::string_view what, uint64_t count) {
  if (count > 0) expired_.Add({{"what", std::string(what)}}).Increment(static_cast<double>(count));
}

void NodeMetrics::SetGauge(const std::string& name, const std::string& help,
                           const std::map<std::string, std::string>& labels, double value) {
  prometheus::BuildGauge().Name(name).Help(help).Register(registry_).Add(labels).Set(value);
}

StageTimer::StageTimer(NodeMetrics& metrics, Stage stage) : metrics_(metrics), stage_(stage), start_(absl::Now()) {}

StageTimer::~StageTimer() { metrics_.Observe(stage_, absl::Now() - start_); }

}  // namespace stem
