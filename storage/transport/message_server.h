// Reads by messages, the owner's side: answers requests out of the regions that are offered, and out of nothing else.
// A requester that does not read its replies, or dies in the middle, costs a bounded queue and nobody else's time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "storage/transport/message_format.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/transport_counters.h"
#include "storage/transport/ucx_handles.h"

namespace stem {

class MessageServer {
 public:
  struct Limits {
    size_t reply_bytes_max = 0;          // payload of one reply
    size_t requesters_max = 0;           // more are not answered
    size_t requests_queued_max = 0;      // per requester; more are dropped
    size_t replies_in_flight_max = 0;    // per requester
  };

  // All on the thread of `worker`, which must be destroyed before this.
  MessageServer(ucp_worker_h worker, Limits limits, TransportCounters& counters, uint64_t& endpoint_failures);
  MessageServer(const MessageServer&) = delete;
  MessageServer& operator=(const MessageServer&) = delete;

  // Offers `memory` under `token`, which no peer can guess.
  void Offer(uint64_t token, std::span<const std::byte> memory);
  // Withdraws it; `withdrawn` runs when no reply reads the memory any more. Requesters that keep one from ending are
  // cut off.
  void Withdraw(uint64_t token, std::function<void()> withdrawn);

  // Sends what may be sent. True when it sent something.
  bool Pump();
  // Cuts off the requesters whose endpoint has failed.
  void DropFailed();
  void DropAll();
  // As DropAll, and leaves the rest to the worker, which is about to be destroyed.
  void DetachAll();
  // Frees what is closed. True when nothing is left to close.
  bool Reap();

 private:
  struct Region {
    std::span<const std::byte> memory;
    size_t replies_in_flight = 0;
    std::function<void()> withdrawn;  // set: not offered any more
  };
  struct Job {
    ReadRequest request;
    uint64_t sent = 0;  // bytes
    SteadyTime expires;
    absl::StatusCode refusal = absl::StatusCode::kOk;
  };
  struct Requester {
    std::unique_ptr<UcxEndpoint> endpoint;
    std::deque<Job> jobs;
    std::vector<uint64_t> tokens_in_flight;  // one entry per reply with a payload
    size_t replies_in_flight = 0;
  };
  struct Reply;  // being sent

  void OnRequest(absl::string_view header, absl::string_view sealed_address);
  Requester* RequesterAt(absl::string_view sealed_address);
  absl::StatusCode Check(const ReadRequest& request) const;
  bool SendNext(Requester& requester, SteadyTime now);
  void Ended(const Reply& reply);
  void Drop(std::map<std::string, std::unique_ptr<Requester>>::iterator requester);

  const ucp_worker_h worker_;
  const Limits limits_;
  TransportCounters& counters_;
  uint64_t& endpoint_failures_;
  absl::flat_hash_map<uint64_t, Region> regions_;
  std::map<std::string, std::unique_ptr<Requester>> requesters_;  // by sealed worker address
  std::vector<std::unique_ptr<Requester>> closing_;
};

}  // namespace stem
