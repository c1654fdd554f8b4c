#include "storage/transport/get_reader.h"

#include "proto/status.h"
#include "storage/transport/envelope.h"

namespace stem {

bool GetReader::Ready(PeerId peer) {
  const auto found = links_.find(peer);
  return found == links_.end() || !found->second->endpoint->Connecting();  // Issue has the answer for one that is gone
}

// Unpacked for the endpoint as it is connected, and kept with it.
absl::StatusOr<ucp_rkey_h> GetReader::KeyOf(UcxLink& link, uint32_t arena) {
  if (const auto known = link.remote_keys.find(arena); known != link.remote_keys.end()) return known->second.get();
  STEM_ASSIGN(const absl::string_view packed, Unseal(EnvelopeKind::kGetRegion, link.peer->Find(arena)->rkey));
  ucp_rkey_h key = nullptr;
  STEM_TRY(UcxStatus(ucp_ep_rkey_unpack(link.endpoint->handle(), packed.data(), &key), "ucp_ep_rkey_unpack"));
  link.remote_keys.emplace(arena, key);
  return key;
}

absl::StatusOr<ReadWire::Issued> GetReader::Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime) {
  const auto found = links_.find(peer);
  if (found == links_.end()) return absl::UnavailableError("peer lost before the read began");
  UcxLink& link = *found->second;
  STEM_ASSIGN(const ucp_rkey_h key, KeyOf(link, read.arena));
  auto get = std::make_unique<Get>(Get{this, op});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.memory_type = UcxMemoryType(read.registration->place());
  params.cb.send = &GetReader::OnEnded;
  params.user_data = get.get();
  const ucs_status_ptr_t request =
      ucp_get_nbx(link.endpoint->handle(), read.destination.data(), read.destination.size(),
                  link.peer->Find(read.arena)->base + read.offset, key, &params);
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
