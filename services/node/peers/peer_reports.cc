#include "services/node/peers/peer_reports.h"

#include <utility>

namespace stem {

void PeerReports::Count(const std::string& peer, Result result) {
  MutexLock lock(mutex_);
  std::erase_if(tellers_, [](const std::weak_ptr<Untold>& each) { return each.expired(); });
  for (const std::weak_ptr<Untold>& each : tellers_) {
    const std::shared_ptr<Untold> untold = each.lock();
    if (untold == nullptr) continue;
    MutexLock peers_lock(untold->mutex);
    if (untold->peers.size() >= kPeersMax && !untold->peers.contains(peer)) continue;
    stemcache::v1::PeerReport& report = untold->peers[peer];
    report.set_node(peer);
    report.set_reads(report.reads() + 1);
    if (result == Result::kLate) report.set_deadline_misses(report.deadline_misses() + 1);
    if (result == Result::kCorrupt) report.set_failed_proofs(report.failed_proofs() + 1);
  }
}

PeerReports::Teller PeerReports::NewTeller() {
  auto untold = std::make_shared<Untold>();
  {
    MutexLock lock(mutex_);
    tellers_.push_back(untold);
  }
  return [untold = std::move(untold)](stemcache::v1::Heartbeat& heartbeat) {
    MutexLock lock(untold->mutex);
    for (auto& [peer, report] : untold->peers) *heartbeat.add_peers() = std::move(report);
    untold->peers.clear();
  };
}

}  // namespace stem
