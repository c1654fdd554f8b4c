// What a scrape of a node shows beside what it counted (metrics.h): how much is held, in use and on its way, read from its owners.
#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/node/node.h"

namespace stem {

void Node::FillPools(MetricsPage& page) const {
  uint64_t orphans = 0, spill_rejected = 0, quarantined = 0, quarantined_below = 0;
  for (const auto& memory : spaces_->memories()) {
    const MetricLabels tenant = {{"tenant", LabelText(memory->group.name)}};
    const auto gauge = [&](const char* name, const char* help, uint64_t value) {
      page.Gauge(absl::StrCat("stemcache_node_", name), help, static_cast<double>(value), tenant);
    };
    BlockPool::Stats stats;
    uint64_t slots = 0, slot_bytes = 0;
    if (memory->pool != nullptr) {
      stats = memory->pool->stats();
      slots = memory->pool->slots();
      slot_bytes = memory->pool->geometry().slot_bytes;
    }
    orphans += stats.orphans;
    spill_rejected += stats.spill_rejected;
    quarantined += stats.quarantined;
    quarantined_below += stats.quarantined_below;
    gauge("arena_bytes", "Memory for blocks", memory->group.dram_bytes);
    gauge("pool_slots", "Slots of the arena; none before the first namespace told the size of its blocks", slots);
    gauge("pool_free_slots", "Slots that hold nothing", stats.slots_free);
    gauge("pool_bytes", "Bytes of all slots", slots * slot_bytes);
    gauge("pool_pinned_slots", "Slots in use by clients, peers or the spiller", stats.slots_pinned);
    gauge("pool_used_bytes", "Bytes of the slots that hold something", stats.slots_used * slot_bytes);
    gauge("pool_fragmentation_bytes", "Bytes of slots that are neither free nor in use; 0 by design, as any free slot takes any block",
          (slots - stats.slots_free - stats.slots_used) * slot_bytes);
    page.Counter("stemcache_node_pool_evicted_blocks_total", "Blocks that left the pool's last tier for space", static_cast<double>(stats.evicted),
                 tenant);
    gauge("pool_ssd_bytes", "Bytes of this pool's blocks on SSD", stats.ssd_bytes);
  }
  page.Gauge("stemcache_node_orphan_blocks", "Blocks held without their parent; any is a bug", static_cast<double>(orphans));
  page.Counter("stemcache_node_quarantined_blocks_total", "Blocks withdrawn as their proof failed", static_cast<double>(quarantined));
  page.Counter("stemcache_node_quarantined_below_blocks_total", "Blocks withdrawn with one of those, on which they hung",
               static_cast<double>(quarantined_below));
  page.Counter("stemcache_node_spill_rejected_blocks_total", "Blocks that left DRAM and were not worth a write to SSD, or not written",
               static_cast<double>(spill_rejected));
}

void Node::FillStreams(MetricsPage& page, const v1::NodeStatusReply& status) const {
  page.Counter("stemcache_node_changes_total", "Changes announced to directories", static_cast<double>(status.sequence()));
  for (const auto& stream : status.streams()) {
    const MetricLabels directory = {{"directory", stream.directory()}};
    page.Gauge("stemcache_node_directory_connected", "1 while the stream to the directory is open", stream.connected() ? 1 : 0, directory);
    page.Gauge("stemcache_node_directory_lag_changes", "Changes that the directory has not acknowledged",
               static_cast<double>(status.sequence() - std::min(status.sequence(), stream.sequence_acknowledged())), directory);
  }
}

void Node::FillDisk(MetricsPage& page) const {
  const SpillStats spill = store_ != nullptr ? store_->stats() : SpillStats();
  page.Gauge("stemcache_node_ssd_quota_bytes", "Quota of the SSD tier; 0 = none", static_cast<double>(config_.ssd_bytes));
  page.Gauge("stemcache_node_ssd_used_bytes", "Bytes of spilled blocks, as the quota counts them", static_cast<double>(spill.live_bytes));
  std::error_code failed;
  const std::filesystem::space_info disk = std::filesystem::space(config_.ssd_dir, failed);
  page.Gauge("stemcache_node_ssd_available_bytes", "Bytes of that disk that are free; 0 without an SSD tier",
             store_ != nullptr && !failed ? static_cast<double>(disk.available) : 0);
  page.Gauge("stemcache_node_spill_file_bytes", "Size of the SSD tier's payload file", static_cast<double>(spill.disk_bytes));
  page.Gauge("stemcache_node_spill_free_bytes", "Bytes of the file that hold nothing and will be used again", static_cast<double>(spill.free_bytes));
  page.Counter("stemcache_node_spill_written_bytes_total", "Bytes written to the disk", static_cast<double>(spill.disk_write_bytes));
  page.Counter("stemcache_node_spill_put_bytes_total", "Payload bytes put; bytes written over these are the write amplification",
               static_cast<double>(spill.write_bytes));
  page.Counter("stemcache_node_spill_read_bytes_total", "Payload bytes read and proved", static_cast<double>(spill.read_bytes));
  page.Counter("stemcache_node_spill_corrupt_records_total", "Records that were damaged", static_cast<double>(spill.corrupt_records));
}

void Node::FillMetrics(MetricsPage& page) const {
  AddBuildInfo(page, "stem-node");
  AddFleetGauges(page, fleet_->health());
  metrics_.Fill(page);
  tracer_.Fill(page);
  metrics_.FillEvictions(page, config_.policy, std::string(NameOf(PolicyKind::kLru)));  // the SSD is LRU: BlockPool
  const v1::NodeStatusReply status = Status();
  FillPools(page);
  FillStreams(page, status);
  FillDisk(page);
  if (engine_follower_ != nullptr) engine_follower_->Fill(page);
  const auto gauge = [&](const char* name, const char* help, uint64_t value, MetricLabels labels = {}) {
    page.Gauge(absl::StrCat("stemcache_node_", name), help, static_cast<double>(value), std::move(labels));
  };
  gauge("blocks", "Blocks held, by tier; one in both counts in both", status.blocks_dram(), {{"tier", "dram"}});
  gauge("blocks", "Blocks held, by tier; one in both counts in both", status.blocks_ssd(), {{"tier", "ssd"}});
  gauge("sessions", "Attached clients", status.sessions());
  gauge("pins", "Rights to read a slot that are out", status.pins());
  gauge("leases", "Rights of peers to read that are out", status.leases());
  const auto longest = [&](const char* name, const char* help, absl::Time since) {
    page.Gauge(name, help, std::max(absl::ToDoubleSeconds(absl::Now() - since), 0.0));
  };
  longest("stemcache_node_pin_longest_seconds", "Since the oldest acquire that its client has not released; 0 without one", sessions_->OldestAcquire());
  longest("stemcache_node_lease_longest_seconds", "Since the oldest lease that is out was granted; 0 without one", leases_->Oldest());
  gauge("reservations", "Blocks that clients are about to publish", status.reservations());
  gauge("staging_bytes", "Memory mapped for publishing", status.staging_bytes());
  gauge("queue_depth", "Calls that wait", fetcher_->queue_depth(), {{"queue", "fetch"}});
  gauge("queue_depth", "Calls that wait", publisher_->queue_depth(), {{"queue", "commit"}});
  const TransportStats transport = transport_->Stats();
  gauge("transport_in_flight_bytes", "Bytes of reads from peers that are on their way", transport.bytes_in_flight);
  gauge("transport_endpoints", "Open endpoints to peers", transport.endpoints_open);
  page.Counter("stemcache_node_transport_lost_endpoints_total", "Endpoints closed by failure or deadline",
               static_cast<double>(transport.endpoints_lost));
}

}  // namespace stem
