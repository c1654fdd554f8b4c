#include "storage/transport/get_reader.h"

namespace stem {

absl::StatusOr<ReadWire::Issued> GetReader::Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime) {
  const auto found = links_.find(peer);
  if (found == links_.end()) return absl::UnavailableError("peer lost before the read began");
  const UcxLink& link = *found->second;
  auto get = std::make_unique<Get>(Get{this, op});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &GetReader::OnEnded;
  params.user_data = get.get();
  const ucs_status_ptr_t request =
      ucp_get_nbx(link.endpoint->handle(), read.destination.data(), read.destination.size(),
                  link.peer->Find(read.arena)->base + read.offset, link.remote_keys.at(read.arena).get(), &params);
  if (request == nullptr) return Issued::kLanded;
  if (UCS_PTR_IS_ERR(request)) return UcxStatus(UCS_PTR_STATUS(request), "ucp_get_nbx");
  get.release();  // OnEnded frees it
  return Issued::kPending;
}

bool GetReader::GiveUp(OpId) { return false; }

void GetReader::OnEnded(void* request, ucs_status_t status, void* get) {
  const std::unique_ptr<Get> ended(static_cast<Get*>(get));
  ucp_request_free(request);
  ended->reader->ended_(ended->op, UcxStatus(status, "one-sided read"));
}

}  // namespace stem
