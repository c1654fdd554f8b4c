#include "services/directory/directory_metrics.h"

#include <array>
#include <map>

#include "absl/strings/str_cat.h"
#include "proto/miss_cause.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

constexpr std::array<const char*, 2> kTruths = {"exact", "stale"};
constexpr std::array<const char*, 3> kIntends = {"granted", "refused", "waited"};

}  // namespace

DirectoryMetrics::DirectoryMetrics()
    : matches_(kTruths), missed_(std::vector<const char*>(v1::MissCause_ARRAYSIZE, "")), intends_(kIntends) {}

void DirectoryMetrics::OnMatch(const v1::MatchReply& reply, size_t blocks_asked, absl::Duration took) {
  matches_.Add(reply.truth().exact() ? 0 : 1);
  asked_.fetch_add(blocks_asked, std::memory_order_relaxed);
  matched_.fetch_add(reply.matched_blocks(), std::memory_order_relaxed);
  for (const v1::Miss& miss : reply.misses()) missed_.Add(static_cast<size_t>(miss.cause()), miss.count());
  match_seconds_.Observe(took);
}

void DirectoryMetrics::OnIntend(absl::string_view outcome) { intends_.Add(outcome); }

void DirectoryMetrics::FillNodes(MetricsPage& page, const std::vector<Membership::NodeStatus>& nodes) const {
  std::map<std::string, int> by_state = {{"live", 0}, {"stale", 0}, {"lost", 0}};
  for (const Membership::NodeStatus& node : nodes) {
    const v1::DirectoryStatusReply::Node& says = node.message;
    ++by_state[says.state()];
    const MetricLabels name = {{"node", LabelText(says.address().node())}};
    page.Gauge("stemcache_directory_stream_lag_seconds", "Time since a node's stream was last heard, whole and up to date; 0 while it is",
               absl::ToDoubleSeconds(node.lag), name);
    page.Gauge("stemcache_directory_node_health_ratio", "1 = its reads come in time and pass their proofs; a newcomer starts lower",
               says.health_percent() / 100.0, name);
  }
  for (const auto& [state, count] : by_state) {
    page.Gauge("stemcache_directory_nodes", "Nodes, by the state of their stream", count, {{"state", state}});
  }
}

void DirectoryMetrics::Fill(MetricsPage& page, const PrefixIndex::Counts& counts, const std::vector<Membership::NodeStatus>& nodes) const {
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    page.Counter(absl::StrCat("stemcache_directory_", name), help, static_cast<double>(value));
  };
  const auto gauge = [&](const char* name, const char* help, double value) {
    page.Gauge(absl::StrCat("stemcache_directory_", name), help, value);
  };
  page.Counters("stemcache_directory_matches_total", "Matches answered, by how sure the answer was", "truth", matches_);
  counter("asked_blocks_total", "Blocks asked for in matches", asked_);
  counter("matched_blocks_total", "Blocks matched", matched_);
  for (size_t i = 1; i < missed_.size(); ++i) {
    page.Counter("stemcache_directory_missed_blocks_total", "Blocks not matched, by cause", static_cast<double>(missed_.Get(i)),
                 {{"cause", CauseName(static_cast<v1::MissCause>(i))}});
  }
  page.Histogram("stemcache_directory_match_seconds", "Time to answer a match, from message to message", match_seconds_);
  page.Counters("stemcache_directory_intends_total", "Intents to compute a stem, by what they were told", "outcome", intends_);
  counter("scores_total", "Scores answered", scores_);
  counter("changes_applied_total", "Changes applied to the index, counted in blocks, snapshots included", changes_);
  counter("resyncs_total", "Snapshots asked for after a gap", resyncs_);
  counter("index_shed_blocks_total", "Announced blocks that the index forgot for want of memory (--index-bytes-max)", counts.shed);
  gauge("streams", "Open announce streams", static_cast<double>(streams_.load(std::memory_order_relaxed)));
  gauge("index_blocks", "Distinct blocks in the index", static_cast<double>(counts.blocks));
  gauge("index_bytes", "Memory of the index", static_cast<double>(counts.bytes));
  gauge("ghosts", "Departed blocks that are remembered", static_cast<double>(counts.ghosts));
  FillNodes(page, nodes);
}

}  // namespace stem
