// Reads by messages, the requester's side: asks the owner, and has what comes put into the destination. As nothing else
// writes a destination, an op that is given up is safe at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "storage/transport/get_reader.h"
#include "storage/transport/message_format.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/ucx_link.h"

namespace stem {

class MessageReader : public ReadWire {
 public:
  // Puts the next bytes of an op into its destination.
  using Land = std::function<void(OpId op, std::span<std::byte> to, std::span<const std::byte> from)>;

  // `links` and this must outlive `worker`.
  MessageReader(ucp_worker_h worker, UcxLinks& links, Land land, OpEnded ended);
  MessageReader(const MessageReader&) = delete;
  MessageReader& operator=(const MessageReader&) = delete;

  absl::StatusOr<Issued> Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime deadline) override;
  // Sends what was issued, one message to each peer.
  void Flush() override;
  bool GiveUp(OpId op) override;

  size_t sends_in_flight() const { return sends_in_flight_; }

 private:
  struct Transfer {
    PeerId peer = 0;
    uint64_t nonce = 0;
    std::byte* destination = nullptr;
    uint64_t bytes = 0;
    uint64_t received = 0;
  };
  // The requests of some ops to one peer, not yet sent.
  struct Asked {
    std::vector<OpId> ops;
    std::vector<ReadRequestBytes> requests;
  };
  absl::Status Send(UcxLink& link, std::vector<ReadRequestBytes> requests);
  void OnReplies(absl::string_view headers, absl::string_view payload);
  void OnReply(const ReadReply& reply, absl::string_view bytes);
  void Heard(uint64_t nonce);
  // Ends an op that is not given up.
  void End(OpId op, const absl::Status& status);

  UcxLinks& links_;
  const Land land_;
  const OpEnded ended_;
  absl::flat_hash_map<OpId, Transfer> transfers_;
  absl::flat_hash_map<PeerId, Asked> asked_;
  size_t sends_in_flight_ = 0;
};

}  // namespace stem
