// Reads by one-sided gets: for RDMA lanes, where the owner's processor has no part in them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/ucx_link.h"

namespace stem {

using OpEnded = std::function<void(OpId op, const absl::Status& status)>;

class GetReader : public ReadWire {
 public:
  // `links` and whatever `ended` touches must outlive the worker that progresses the gets.
  GetReader(UcxLinks& links, OpEnded ended) : links_(links), ended_(std::move(ended)) {}

  // Once the endpoint is connected: UCX 1.22 dies of a get before.
  bool Ready(PeerId peer) override;
  absl::StatusOr<Issued> Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime deadline) override;
  // Nothing short of its completion, or the closed endpoint, tells when a device stops to write.
  bool GiveUp(OpId op) override;

 private:
  struct Get {
    GetReader* reader;
    OpId op;
  };
  static absl::StatusOr<ucp_rkey_h> KeyOf(UcxLink& link, uint32_t arena);
  static void OnEnded(void* request, ucs_status_t status, void* get);

  UcxLinks& links_;
  const OpEnded ended_;
};

}  // namespace stem
