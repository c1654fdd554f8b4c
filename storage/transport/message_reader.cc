#include "storage/transport/message_reader.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "storage/transport/message_format.h"

namespace stem {
namespace {

// UCX reads header and payload until the send ends.
struct RequestSend {
  std::vector<ReadRequestBytes> requests;
  size_t* in_flight;
};

uint32_t MillisecondsLeft(SteadyTime deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  return static_cast<uint32_t>(std::clamp<int64_t>(left.count(), 1, UINT32_MAX));
}

}  // namespace

MessageReader::MessageReader(ucp_worker_h worker, UcxLinks& links, Land land, OpEnded ended)
    : links_(links), land_(std::move(land)), ended_(std::move(ended)) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = kReadReplyMessage;
  params.arg = this;
  params.cb = [](void* self, const void* header, size_t header_bytes, void* data, size_t data_bytes,
                 const ucp_am_recv_param_t* received) {
    // A rendezvous would let UCX write memory of ours later; no node sends one.
    if ((received->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    static_cast<MessageReader*>(self)->OnReplies({static_cast<const char*>(header), header_bytes},
                                                 {static_cast<const char*>(data), data_bytes});
    return UCS_OK;
  };
  ucp_worker_set_am_recv_handler(worker, &params);
}

absl::StatusOr<ReadWire::Issued> MessageReader::Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime deadline) {
  const auto found = links_.find(peer);
  if (found == links_.end()) return absl::UnavailableError("peer lost before the read began");
  UcxLink& link = *found->second;
  const ReadRequest request{.op = op, .nonce = link.nonce, .region = link.tokens.at(read.arena), .offset = read.offset,
                            .bytes = read.destination.size(), .time_left_ms = MillisecondsLeft(deadline)};
  Asked& asked = asked_[peer];
  asked.ops.push_back(op);
  asked.requests.push_back(Encode(request));
  transfers_[op] = {.peer = peer, .nonce = link.nonce, .destination = read.destination.data(),
                    .bytes = read.destination.size()};
  ++link.requests_open;
  if (!link.silent_since) link.silent_since = std::chrono::steady_clock::now();
  return Issued::kPending;
}

absl::Status MessageReader::Send(UcxLink& link, std::vector<ReadRequestBytes> requests) {
  auto send = std::make_unique<RequestSend>(RequestSend{std::move(requests), &sends_in_flight_});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;  // tells the owner which endpoint to answer
  params.user_data = send.get();
  // A request that could not be sent is a failed endpoint, and that is how its ops hear of it.
  params.cb.send = [](void* sent, ucs_status_t, void* data) {
    const std::unique_ptr<RequestSend> ended(static_cast<RequestSend*>(data));
    --*ended->in_flight;
    ucp_request_free(sent);
  };
  const ucs_status_ptr_t sending =
      ucp_am_send_nbx(link.endpoint->handle(), kReadRequestMessage, send->requests.data(), sizeof(ReadRequestBytes),
                      send->requests.data() + 1, (send->requests.size() - 1) * sizeof(ReadRequestBytes), &params);
  if (UCS_PTR_IS_ERR(sending)) return UcxStatus(UCS_PTR_STATUS(sending), "sending a read request");
  if (sending != nullptr) {
    ++sends_in_flight_;
    send.release();
  }
  return absl::OkStatus();
}

void MessageReader::Flush() {
  for (auto& [peer, asked] : std::exchange(asked_, {})) {
    const auto link = links_.find(peer);
    const absl::Status sent = link != links_.end() ? Send(*link->second, std::move(asked.requests))
                                                   : absl::UnavailableError("peer lost before the read began");
    if (sent.ok()) continue;
    for (const OpId op : asked.ops) End(op, sent);
  }
}

bool MessageReader::GiveUp(OpId op) {
  const auto node = transfers_.extract(op);
  if (const auto link = links_.find(node.mapped().peer); link != links_.end()) --link->second->requests_open;
  return true;
}

void MessageReader::End(OpId op, const absl::Status& status) {
  GiveUp(op);
  ended_(op, status);
}

void MessageReader::Heard(uint64_t nonce) {
  for (auto& [id, link] : links_) {
    if (link->nonce != nonce) continue;
    link->silent_since.reset();
    if (link->requests_open > 0) link->silent_since = std::chrono::steady_clock::now();
  }
}

void MessageReader::OnReplies(absl::string_view headers, absl::string_view payload) {
  while (!headers.empty()) {
    const auto reply = DecodeReadReply(headers.substr(0, sizeof(ReadReplyBytes)));
    if (!reply.ok() || reply->bytes > payload.size()) return;  // no op to blame; its deadline ends it
    OnReply(*reply, payload.substr(0, reply->bytes));
    headers.remove_prefix(sizeof(ReadReplyBytes));
    payload.remove_prefix(reply->bytes);
  }
}

void MessageReader::OnReply(const ReadReply& reply, absl::string_view bytes) {
  const auto found = transfers_.find(reply.op);
  if (found == transfers_.end() || found->second.nonce != reply.nonce) {
    Heard(reply.nonce);  // late, but alive
    return;
  }
  Transfer& transfer = found->second;
  if (reply.code != absl::StatusCode::kOk) {
    End(reply.op, absl::Status(reply.code, "the owner refused the read"));
  } else if (reply.offset != transfer.received || bytes.size() > transfer.bytes - transfer.received) {
    End(reply.op, absl::DataLossError(absl::StrCat("reply with ", bytes.size(), " bytes at ", reply.offset, "; want at most ",
                                                   transfer.bytes - transfer.received, " at ", transfer.received)));
  } else {
    land_(reply.op, {transfer.destination + transfer.received, bytes.size()},
          std::as_bytes(std::span(bytes.data(), bytes.size())));
    transfer.received += bytes.size();
    if (transfer.received == transfer.bytes) End(reply.op, absl::OkStatus());
  }
  Heard(reply.nonce);
}

}  // namespace stem
