// A node, embeddable: everything that main.cc and the tests start. Parts are built in the order in which they depend on each
// other and ended in reverse.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/directory_stub.h"
#include "proto/mutex.h"
#include "services/node/announce/announcers.h"
#include "services/node/announce/change_log.h"
#include "services/node/config.h"
#include "services/node/engines/engine_follower.h"
#include "services/node/fetch/fetcher.h"
#include "services/node/fetch/single_flight.h"
#include "services/node/node_service.h"
#include "services/node/operators/kept_stems.h"
#include "services/node/operators/levers.h"
#include "services/node/operators/operator_service.h"
#include "services/node/peers/lease_table.h"
#include "services/node/peers/peer_reports.h"
#include "services/node/peers/peer_service.h"
#include "services/node/peers/peers.h"
#include "services/node/publisher.h"
#include "services/node/records/demand.h"
#include "services/node/records/departure_log.h"
#include "services/node/records/metrics.h"
#include "services/node/records/published_prompts.h"
#include "services/node/records/request_log.h"
#include "services/node/records/request_trace.h"
#include "services/node/sessions/attach_server.h"
#include "services/node/tiers/promoter.h"
#include "services/node/tiers/scrubber.h"
#include "services/node/tiers/spiller.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/fleet.h"
#include "services/runtime/metrics.h"
#include "services/runtime/tracing.h"
#include "storage/transport/transport.h"

namespace stem {

class Node {
 public:
  // Checks, allocates, restores what is on SSD, listens. `log` is borrowed. Errors say which flag or address, and why.
  static absl::StatusOr<std::unique_ptr<Node>> Start(const NodeConfig& config, Logger& log);
  // Stops taking calls, lets running ones end within a few seconds, and takes everything down.
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  uint64_t incarnation() const { return incarnation_; }
  std::string peer_address() const;  // as bound
  const std::string& http_address() const { return http_address_; }  // as bound
  const NodeConfig& config() const { return config_; }
  v1::NodeStatusReply Status() const;
  // Announces to these directories, host:port each, nearest first, and asks them; no longer to others. Calls that run go on.
  // Ends streams before it returns, so not from a thread that must not wait. Threads: any. Errors: InvalidArgument (an address,
  // or more than kDirectoriesMax of them), and nothing has changed.
  absl::Status SetDirectories(const std::vector<std::string>& directories);
  // What --ready-file gets.
  std::string ReadyJson() const;

  // For tests that alter bytes: the memory that clients and peers read.
  const std::vector<std::unique_ptr<GroupMemory>>& memories() const { return spaces_->memories(); }

 private:
  Node(const NodeConfig& config, ClusterSecret secret, Logger& log);

  absl::Status OpenTiers();
  absl::Status RestoreSpilled();
  absl::Status OpenTransport();
  absl::Status MakeParts();
  void MakeServices();
  // HTTP, then calls, then attaching clients.
  absl::Status Listen();
  void ShowHealth();
  void StartAnnouncers();
  void JoinFleet();
  void OnFleet(const FleetSnapshot& fleet, const FleetMember& self);
  void KeepHouse();
  void FillMetrics(MetricsPage& page) const;
  void FillPools(MetricsPage& page) const;
  void FillStreams(MetricsPage& page, const v1::NodeStatusReply& status) const;
  void FillDisk(MetricsPage& page) const;
  v1::Heartbeat Usage() const;
  v1::NodeCounters Counted() const;

  const NodeConfig config_;
  const ClusterSecret secret_;
  Logger& log_;
  const uint64_t incarnation_;
  const absl::Time started_;
  mutable Mutex mutex_;
  std::string peer_address_ ABSL_GUARDED_BY(mutex_);
  std::string http_address_;

  NodeMetrics metrics_;
  Tracer tracer_;
  RequestLog request_log_;
  const RequestSinks request_sinks_;
  LatestPublish latest_publish_;
  std::unique_ptr<FleetSource> fleet_;
  std::vector<std::string> directories_now_;  // of the fleet's thread, as the next
  std::vector<std::string> settled_later_;
  ChangeLog changes_;
  DepartureLog departures_;
  std::unique_ptr<SpillStore> store_;  // null = no SSD tier
  std::unique_ptr<SpaceTable> spaces_;
  std::unique_ptr<EngineFollower> engine_follower_;  // null = no engine's events are followed
  PublishedPrompts prompts_;
  Reservations reservations_;
  PeerReports peer_reports_;
  std::unique_ptr<DirectoryStub> directories_;
  std::unique_ptr<SingleFlight> single_flight_;
  Drain drain_;
  KeptStems kept_;
  std::unique_ptr<SessionTable> sessions_;
  std::unique_ptr<LeaseTable> leases_;
  std::unique_ptr<Transport> transport_;
  std::vector<std::unique_ptr<Registration>> registrations_;  // by arena id
  std::unique_ptr<Promoter> promoter_;
  std::unique_ptr<HostPeers> host_peers_;
  std::unique_ptr<Peers> peers_;
  std::unique_ptr<LentRuns> lent_runs_;
  std::unique_ptr<Copier> copier_;
  BringRates rates_;
  std::unique_ptr<Scrubber> scrubber_;
  std::unique_ptr<Demand> demand_;
  std::unique_ptr<Fetcher> fetcher_;
  std::unique_ptr<Publisher> publisher_;
  std::unique_ptr<NodeService> node_service_;
  std::unique_ptr<PeerService> peer_service_;
  std::unique_ptr<Levers> levers_;
  std::unique_ptr<NodeOperatorService> operator_service_;
  std::unique_ptr<Spiller> spiller_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<AttachServer> attach_;
  std::unique_ptr<Announcers> announcers_;
  std::unique_ptr<MetricsServer> http_;
  std::atomic<bool> started_whole_{false};
  std::atomic<bool> stopping_{false};
  std::thread housekeeper_;
};

}  // namespace stem
