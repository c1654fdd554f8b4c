// The transport over UCX: one worker, one thread. Over RDMA lanes peers' memory is read by one-sided gets; over TCP by
// messages that the owner's thread answers (ucx_context.h says why).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "storage/transport/progress_loop.h"
#include "storage/transport/transport.h"
#include "storage/transport/transport_counters.h"
#include "storage/transport/ucx_context.h"
#include "storage/transport/ucx_core.h"

namespace stem {

class UcxTransport : public Transport {
 public:
  struct Options {
    UcxOptions ucx;
    uint64_t peer_bytes_in_flight_max = 32u << 20;
    uint64_t bytes_in_flight_max = 128u << 20;
    size_t peer_ops_in_flight_max = 1024;
    size_t ops_queued_max = 65536;  // accepted and not yet safe, all reads together
    size_t commands_max = 4096;     // reads and calls that the thread has not yet taken
    size_t peers_max = 256;
    // A peer that was asked and says nothing for so long is cut off when a read misses its deadline (reads by
    // messages; a one-sided read that misses it always closes its endpoint, as nothing else stops a device).
    absl::Duration silence_max = absl::Seconds(1);
    // Runs first on the progress thread. With lanes of a GPU it makes the GPU's context current there, as UCX wants one.
    std::function<void()> on_thread_start;
  };

  // InvalidArgument: an option out of range, named. Unavailable: no lane fits.
  static absl::StatusOr<std::unique_ptr<UcxTransport>> Create(const Options& options);
  ~UcxTransport() override;

  void Close() override;
  const std::string& worker_address() const override { return core_->worker_address(); }
  const std::string& description() const override { return description_; }
  absl::StatusOr<std::unique_ptr<Registration>> Register(std::span<std::byte> memory, MemoryPlace place) override;
  absl::StatusOr<std::shared_ptr<RemotePeer>> Connect(const PeerMemory& memory, absl::Time deadline) override;
  absl::Status Read(std::shared_ptr<RemotePeer> peer, std::vector<ReadOp> ops, absl::Time deadline,
                    ReadCallbacks callbacks) override;
  TransportStats Stats() const override { return counters_.Snapshot(); }

  // Processor time of the progress thread.
  absl::Duration CpuTime() const { return loop_->CpuTime(); }

 private:
  class UcxRegistration;
  UcxTransport(const Options& options, std::string description)
      : options_(options), description_(std::move(description)) {}

  const Options options_;
  const std::string description_;
  TransportCounters counters_;
  std::atomic<size_t> registrations_{0};
  std::atomic<bool> closed_{false};
  std::unique_ptr<UcxCore> core_;
  std::unique_ptr<ProgressLoop> loop_;  // ends before the core
};

}  // namespace stem
