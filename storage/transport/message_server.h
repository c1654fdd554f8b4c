// The owner's side: accepts the connections of requesters and, for reads by messages, answers their requests out of
// the regions that are offered, and out of nothing else. A requester that does not read its replies, or dies in the
// middle, costs a bounded queue and nobody else's time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/transport/message_format.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/transport_counters.h"
#include "storage/transport/ucx_handles.h"

namespace stem {

class MessageServer {
 public:
  struct Limits {
    size_t message_bytes_max = 0;        // payload of one message
    size_t requesters_max = 0;           // more are not accepted
    size_t requests_queued_max = 0;      // per requester; more are dropped
    size_t arrivals_max = 0;             // of all requesters between two calls of Pump; more are dropped
    size_t messages_in_flight_max = 0;   // per requester
  };

  // All on the thread of `worker`, which must be destroyed before this. Listens on `host`. With `answers` off it only
  // holds the connections, over which requesters read by themselves.
  static absl::StatusOr<std::unique_ptr<MessageServer>> Start(ucp_worker_h worker, const std::string& host,
                                                              bool answers, Limits limits,
                                                              TransportCounters& counters);
  MessageServer(const MessageServer&) = delete;
  MessageServer& operator=(const MessageServer&) = delete;

  // Offers `memory` under `token`, which no peer can guess.
  void Offer(uint64_t token, std::span<const std::byte> memory, MemoryPlace place);
  // Withdraws it; `withdrawn` runs when no reply reads the memory any more. Requesters that keep one from ending are
  // cut off.
  void Withdraw(uint64_t token, std::function<void()> withdrawn);

  const std::string& address() const { return listener_->address(); }

  // Accepts who waits, sends what may be sent, cuts off whose endpoint has failed. True when it did something.
  bool Pump();
  // True while replies wait for their requesters to take them.
  bool replying() const { return messages_in_flight_ > 0; }
  // Cuts all off, and from here on who connects.
  void DropAll();
  // As DropAll, ends listening, and leaves the rest to the worker, which must be destroyed right after.
  void DetachAll();
  // Frees what is closed. True when nothing is left to close.
  bool Reap();

 private:
  struct Region {
    std::span<const std::byte> memory;
    MemoryPlace place = MemoryPlace::kHost;
    size_t replies_in_flight = 0;       // that read it
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
    std::vector<uint64_t> tokens_in_flight;  // one entry per reply with bytes
    size_t messages_in_flight = 0;
  };
  struct Message;  // of replies, being sent

  MessageServer(ucp_worker_h worker, Limits limits, TransportCounters& counters);
  void SetHandler();
  // Only takes note: UCX 1.13 crashes when it is called from the middle of its progress.
  void OnRequests(absl::string_view header, absl::string_view payload, ucp_ep_h from);
  void Queue(const ReadRequest& request, ucp_ep_h from);
  bool AcceptWaiting();
  void DropFailed();
  absl::StatusCode Check(const ReadRequest& request) const;
  bool SendNext(Requester& requester, SteadyTime now);
  // Puts replies to its requester's next jobs into `message`, as many as one takes.
  void Fill(Message& message, SteadyTime now);
  void Ended(const Message& message);
  void Drop(std::map<ucp_ep_h, std::unique_ptr<Requester>>::iterator requester);

  const ucp_worker_h worker_;
  const Limits limits_;
  TransportCounters& counters_;
  uint64_t endpoint_failures_ = 0;  // not yet looked at
  std::unique_ptr<UcxListener> listener_;
  bool accepting_ = true;  // else who connects is cut off
  absl::flat_hash_map<uint64_t, Region> regions_;
  std::deque<std::pair<ReadRequest, ucp_ep_h>> arrivals_;
  std::map<ucp_ep_h, std::unique_ptr<Requester>> requesters_;
  std::vector<std::unique_ptr<Requester>> closing_;
  size_t messages_in_flight_ = 0;  // to all requesters
};

}  // namespace stem
