// All of a UCX transport that lives on its progress thread: the worker, the links to peers, the regions it offers.
// UcxTransport is its thread-safe face.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/transport/envelope.h"
#include "storage/transport/message_reader.h"
#include "storage/transport/message_server.h"
#include "storage/transport/progress_loop.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/transport_counters.h"
#include "storage/transport/ucx_context.h"
#include "storage/transport/ucx_link.h"

namespace stem {

class UcxCore : public ProgressDriver {
 public:
  struct Limits {
    ReadScheduler::Limits windows;
    size_t peers_max = 0;
    absl::Duration silence_max;
    uint64_t message_bytes_max = 0;
    std::string listen_host;
  };

  // `counters` must outlive the core.
  static absl::StatusOr<std::unique_ptr<UcxCore>> Create(ConfiguredUcx ucx, Limits limits, TransportCounters& counters);
  ~UcxCore() override;  // after its thread has ended

  const std::string& worker_address() const { return sealed_address_; }  // any thread
  bool reads_by_messages() const { return ucx_.reads_by_messages; }      // any thread

  // A region, as peers and local reads see it. Opaque: handed back to RemoveRegion.
  struct Region {
    std::string rkey;               // sealed
    uint64_t token = 0;             // reads by messages
    std::optional<UcxMemory> memory;  // one-sided reads
  };
  absl::StatusOr<std::unique_ptr<Region>> AddRegion(std::span<std::byte> memory, MemoryPlace place);
  // `removed` runs, perhaps later, when peers no longer read the memory through this process.
  void RemoveRegion(std::unique_ptr<Region> region, std::function<void()> removed);

  absl::StatusOr<std::shared_ptr<UcxPeer>> Connect(const PeerMemory& memory);
  void Submit(const std::shared_ptr<UcxPeer>& peer, std::vector<ReadOp> ops, SteadyTime deadline,
              ReadCallbacks callbacks);

  // Ends every read with Cancelled, closes every endpoint and destroys the worker, in a bounded time; then `done`.
  void ShutDown(std::function<void()> done);

  bool Step() override;
  bool Arm() override;
  int wake_fd() const override { return wake_fd_; }
  bool Streaming() const override;
  SteadyTime NextDeadline() const override;

 private:
  UcxCore(ConfiguredUcx ucx, UcxWorker worker, Limits limits, TransportCounters& counters);
  absl::Status Open();
  EnvelopeKind address_kind() const;
  EnvelopeKind region_kind() const;
  absl::Status MakeRoom();
  void CloseLink(PeerId id, const absl::Status& why);
  void DropFailed();
  void Expire();
  void Reap();
  void TearDown();

  const ConfiguredUcx ucx_;
  const Limits limits_;
  TransportCounters& counters_;
  std::mt19937_64 random_;
  uint64_t endpoint_failures_ = 0;  // not yet looked at
  int wake_fd_ = -1;
  std::string sealed_address_;
  PeerId next_peer_ = 1;
  UcxLinks links_;
  std::vector<std::unique_ptr<UcxLink>> closing_;
  std::function<void()> shut_down_;  // set: shutting down
  SteadyTime shut_down_limit_;
  bool draining_ = false;  // something is being closed: Step must run though no descriptor says so

  // The worker goes first, as it may call back into the rest while it is destroyed. Null once shut down.
  std::unique_ptr<ReadWire> wire_;
  std::unique_ptr<ReadScheduler> scheduler_;
  std::unique_ptr<MessageServer> server_;
  MessageReader* message_reader_ = nullptr;
  UcxWorker worker_;
};

}  // namespace stem
