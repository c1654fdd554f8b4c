#include "services/directory/directory_metrics.h"

#include <set>

#include "proto/miss_cause.h"
#include "services/runtime/metrics.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Family<prometheus::Gauge>& Gauges(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

}  // namespace

DirectoryMetrics::DirectoryMetrics(prometheus::Registry& registry)
    : matches_(Counters(registry, "stemcache_directory_matches_total", "Matches answered, by how sure the answer was.")),
      exact_(matches_.Add({{"truth", "exact"}})),
      stale_(matches_.Add({{"truth", "stale"}})),
      missed_(Counters(registry, "stemcache_directory_missed_blocks_total", "Blocks not matched, by cause.")),
      intends_(Counters(registry, "stemcache_directory_intends_total", "Intents to compute a stem, by what they were told.")),
      nodes_(Gauges(registry, "stemcache_directory_nodes", "Nodes, by the state of their stream.")),
      lag_seconds_(Gauges(registry, "stemcache_directory_stream_lag_seconds",
                          "Time since a node's stream was last heard, whole and up to date; 0 while it is.")),
      match_seconds_(prometheus::BuildHistogram()
                         .Name("stemcache_directory_match_seconds")
                         .Help("Time to answer a match, from message to message.")
                         .Register(registry)
                         .Add({}, LatencyBuckets())),
      asked_(Counters(registry, "stemcache_directory_asked_blocks_total", "Blocks asked for in matches.").Add({})),
      matched_(Counters(registry, "stemcache_directory_matched_blocks_total", "Blocks matched.").Add({})),
      scores_(Counters(registry, "stemcache_directory_scores_total", "Scores answered.").Add({})),
      changes_(Counters(registry, "stemcache_directory_changes_applied_total",
                        "Changes applied to the index, counted in blocks, snapshots included.")
                   .Add({})),
      resyncs_(Counters(registry, "stemcache_directory_resyncs_total", "Snapshots asked for after a gap.").Add({})),
      streams_(Gauges(registry, "stemcache_directory_streams", "Open announce streams.").Add({})),
      blocks_(Gauges(registry, "stemcache_directory_index_blocks", "Distinct blocks in the index.").Add({})),
      index_bytes_(Gauges(registry, "stemcache_directory_index_bytes", "Memory of the index.").Add({})),
      shed_(Counters(registry, "stemcache_directory_index_shed_blocks_total",
                     "Announced blocks that the index forgot for want of memory (--index-bytes-max).")
                .Add({})),
      ghosts_(Gauges(registry, "stemcache_directory_ghosts", "Departed blocks that are remembered.").Add({})) {}

void DirectoryMetrics::OnMatch(const v1::MatchReply& reply, size_t blocks_asked, absl::Duration took) {
  (reply.truth().exact() ? exact_ : stale_).Increment();
  asked_.Increment(static_cast<double>(blocks_asked));
  matched_.Increment(reply.matched_blocks());
  for (const v1::Miss& miss : reply.misses()) missed_.Add({{"cause", CauseName(miss.cause())}}).Increment(miss.count());
  match_seconds_.Observe(absl::ToDoubleSeconds(took));
}

void DirectoryMetrics::Refresh(const PrefixIndex::Counts& counts, const std::vector<Membership::NodeStatus>& nodes) {
  blocks_.Set(static_cast<double>(counts.blocks));
  ghosts_.Set(static_cast<double>(counts.ghosts));
  index_bytes_.Set(static_cast<double>(counts.bytes));
  std::map<std::string, int> by_state = {{"live", 0}, {"stale", 0}, {"lost", 0}};
  std::set<std::string> present;
  MutexLock lock(mutex_);
  shed_.Increment(static_cast<double>(counts.shed) - shed_.Value());
  for (const Membership::NodeStatus& node : nodes) {
    const std::string& name = node.message.address().node();
    ++by_state[node.message.state()];
    present.insert(name);
    prometheus::Gauge*& gauge = lag_by_node_[name];
    if (gauge == nullptr) gauge = &lag_seconds_.Add({{"node", name}});
    gauge->Set(absl::ToDoubleSeconds(node.lag));
  }
  for (const auto& [state, count] : by_state) nodes_.Add({{"state", state}}).Set(count);
  for (auto each = lag_by_node_.begin(); each != lag_by_node_.end();) {
    if (present.contains(each->first)) {
      ++each;
      continue;
    }
    lag_seconds_.Remove(each->second);
    each = lag_by_node_.erase(each);
  }
}

}  // namespace stem
