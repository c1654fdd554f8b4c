// A Transport inside one process, for the tests of what uses one: a LoopbackFabric joins any number of them, copies
// with memcpy, and has knobs for what a network does. Keeps the whole contract of transport.h.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "storage/transport/transport.h"
#include "storage/transport/transport_counters.h"

namespace stem {

// Must outlive its transports. Any thread.
class LoopbackFabric {
 public:
  // While held, reads wait (until their deadline); Release lets them go on.
  void Hold();
  void Release();
  // The next `count` ops fail with `status`, without a byte copied.
  void FailNextOps(size_t count, absl::Status status);
  // The next `count` ops land with their first byte flipped: what a proof must catch.
  void CorruptNextOps(size_t count);
  // Every op waits so long before it is copied, or until its deadline.
  void SetDelay(absl::Duration delay);
  // The owner with this worker address is as good as killed: reads of it end with Unavailable, and Connect makes
  // peers that are soon lost.
  void Kill(const std::string& worker_address);

 private:
  friend class LoopbackTransport;
  struct Fault {
    absl::Status failure;  // OK: none
    bool corrupt = false;
  };
  std::string Join();
  std::string Offer(const std::string& owner, std::span<std::byte> memory);
  void Withdraw(const std::string& rkey);
  bool alive(const std::string& owner);
  // Waits out hold and delay. False when `deadline` passed first. Ends early when `owner` is killed or after
  // Interrupt, if `stopping` is then set.
  bool Travel(const std::string& owner, absl::Time deadline, const std::atomic<bool>& stopping);
  void Interrupt();
  absl::StatusOr<std::vector<std::byte>> Copy(const std::string& owner, const RemoteRegion& region, const ReadOp& op);

  Mutex mutex_;
  CondVar changed_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration delay_ ABSL_GUARDED_BY(mutex_);
  std::deque<Fault> faults_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> killed_ ABSL_GUARDED_BY(mutex_);
  struct Offered {
    std::string owner;
    std::span<std::byte> memory;
  };
  std::map<std::string, Offered> regions_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackTransport : public Transport {
 public:
  explicit LoopbackTransport(LoopbackFabric& fabric, size_t ops_queued_max = 65536);
  ~LoopbackTransport() override;

  void Close() override;
  const std::string& worker_address() const override { return sealed_address_; }
  const std::string& description() const override { return description_; }
  absl::StatusOr<std::unique_ptr<Registration>> Register(std::span<std::byte> memory, MemoryPlace place) override;
  absl::StatusOr<std::shared_ptr<RemotePeer>> Connect(const PeerMemory& memory, absl::Time deadline) override;
  absl::Status Read(std::shared_ptr<RemotePeer> peer, std::vector<ReadOp> ops, absl::Time deadline,
                    ReadCallbacks callbacks) override;
  TransportStats Stats() const override { return counters_.Snapshot(); }

 private:
  class LoopbackPeer;
  class LoopbackRegistration;
  struct Pending {
    std::shared_ptr<LoopbackPeer> peer;
    std::vector<ReadOp> ops;
    absl::Time deadline;
    ReadCallbacks callbacks;
  };
  void Main();
  void Serve(Pending& read);
  absl::Status ServeOp(const Pending& read, size_t op);

  LoopbackFabric& fabric_;
  const size_t ops_queued_max_;
  const std::string address_;
  const std::string sealed_address_;
  const std::string description_ = "loopback, in this process";
  TransportCounters counters_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Pending> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<LoopbackPeer>> peers_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace stem
