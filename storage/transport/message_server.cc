#include "storage/transport/message_server.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/check.h"
#include "storage/transport/envelope.h"

namespace stem {

struct MessageServer::Reply {
  MessageServer* server;
  Requester* requester;
  uint64_t token;  // of the region that the payload lies in
  bool has_payload;
  ReadReplyBytes header;  // UCX reads it until the send ends
};

MessageServer::MessageServer(ucp_worker_h worker, Limits limits, TransportCounters& counters,
                             uint64_t& endpoint_failures)
    : worker_(worker), limits_(limits), counters_(counters), endpoint_failures_(endpoint_failures) {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = kReadRequestMessage;
  params.arg = this;
  params.cb = [](void* self, const void* header, size_t header_bytes, void* data, size_t data_bytes,
                 const ucp_am_recv_param_t* received) {
    if ((received->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) return UCS_OK;
    static_cast<MessageServer*>(self)->OnRequest({static_cast<const char*>(header), header_bytes},
                                                 {static_cast<const char*>(data), data_bytes});
    return UCS_OK;
  };
  ucp_worker_set_am_recv_handler(worker, &params);
}

void MessageServer::Offer(uint64_t token, std::span<const std::byte> memory) {
  STEM_CHECK(regions_.emplace(token, Region{.memory = memory}).second);
}

void MessageServer::Withdraw(uint64_t token, std::function<void()> withdrawn) {
  Region& region = regions_.at(token);
  if (region.replies_in_flight == 0) {
    regions_.erase(token);
    withdrawn();
    return;
  }
  region.withdrawn = std::move(withdrawn);
  for (auto it = requesters_.begin(); it != requesters_.end();) {
    const auto current = it++;
    const auto& tokens = current->second->tokens_in_flight;
    if (std::find(tokens.begin(), tokens.end(), token) != tokens.end()) Drop(current);
  }
}

absl::StatusCode MessageServer::Check(const ReadRequest& request) const {
  const auto region = regions_.find(request.region);
  if (region == regions_.end() || region->second.withdrawn) return absl::StatusCode::kNotFound;
  const uint64_t held = region->second.memory.size();
  if (request.offset > held || request.bytes > held - request.offset) return absl::StatusCode::kOutOfRange;
  return absl::StatusCode::kOk;
}

MessageServer::Requester* MessageServer::RequesterAt(absl::string_view sealed_address) {
  std::string key(sealed_address);
  if (const auto known = requesters_.find(key); known != requesters_.end()) return known->second.get();
  const auto address = Unseal(EnvelopeKind::kMessageAddress, sealed_address);
  if (!address.ok() || requesters_.size() >= limits_.requesters_max) return nullptr;
  auto endpoint = UcxEndpoint::Create(worker_, *address, endpoint_failures_);
  if (!endpoint.ok()) return nullptr;
  auto requester = std::make_unique<Requester>();
  requester->endpoint = *std::move(endpoint);
  ++counters_.requesters_open;
  return requesters_.emplace(std::move(key), std::move(requester)).first->second.get();
}

void MessageServer::OnRequest(absl::string_view header, absl::string_view sealed_address) {
  const auto request = DecodeReadRequest(header);
  Requester* requester = request.ok() ? RequesterAt(sealed_address) : nullptr;
  if (requester == nullptr || requester->jobs.size() >= limits_.requests_queued_max) {
    ++counters_.serves_refused;  // dropped: the deadline of the read ends it
    return;
  }
  const absl::StatusCode refusal = Check(*request);
  if (refusal != absl::StatusCode::kOk) ++counters_.serves_refused;
  const SteadyTime expires = std::chrono::steady_clock::now() + std::chrono::milliseconds(request->time_left_ms);
  requester->jobs.push_back({.request = *request, .expires = expires, .refusal = refusal});
}

bool MessageServer::Pump() {
  bool sent = false;
  const SteadyTime now = std::chrono::steady_clock::now();
  for (bool any = true; any;) {
    any = false;
    // One reply each in turn, so that a requester with much to ask does not hold up one with little.
    for (auto& [key, requester] : requesters_) any |= SendNext(*requester, now);
    sent |= any;
  }
  return sent;
}

bool MessageServer::SendNext(Requester& requester, SteadyTime now) {
  while (!requester.jobs.empty() && requester.jobs.front().expires < now) requester.jobs.pop_front();
  if (requester.jobs.empty() || !requester.endpoint->failure().ok()) return false;
  if (requester.replies_in_flight >= limits_.replies_in_flight_max) return false;

  Job& job = requester.jobs.front();
  if (job.refusal == absl::StatusCode::kOk) job.refusal = Check(job.request);  // withdrawn since
  const bool has_payload = job.refusal == absl::StatusCode::kOk;
  auto reply = std::make_unique<Reply>(Reply{this, &requester, job.request.region, has_payload, {}});
  reply->header = Encode(ReadReply{job.request.op, job.request.nonce, job.sent, job.refusal});
  std::span<const std::byte> payload;
  if (has_payload) {
    payload = regions_.at(job.request.region)
                  .memory.subspan(job.request.offset + job.sent)
                  .first(std::min<uint64_t>(job.request.bytes - job.sent, limits_.reply_bytes_max));
  }

  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.user_data = reply.get();
  params.cb.send = [](void* request, ucs_status_t, void* data) {
    const std::unique_ptr<Reply> ended(static_cast<Reply*>(data));
    ucp_request_free(request);
    ended->server->Ended(*ended);
  };
  const ucs_status_ptr_t sending =
      ucp_am_send_nbx(requester.endpoint->handle(), kReadReplyMessage, reply->header.data(), reply->header.size(),
                      payload.data(), payload.size(), &params);
  if (UCS_PTR_IS_ERR(sending)) {
    requester.jobs.clear();  // its endpoint has failed, and the failure handler is about to say so
    return false;
  }
  counters_.bytes_served += payload.size();
  job.sent += payload.size();
  if (!has_payload || job.sent == job.request.bytes) requester.jobs.pop_front();
  if (sending != nullptr) {
    ++requester.replies_in_flight;
    if (has_payload) {
      requester.tokens_in_flight.push_back(reply->token);
      ++regions_.at(reply->token).replies_in_flight;
    }
    reply.release();
  }
  return true;
}

void MessageServer::Ended(const Reply& reply) {
  --reply.requester->replies_in_flight;
  if (!reply.has_payload) return;
  auto& tokens = reply.requester->tokens_in_flight;
  tokens.erase(std::find(tokens.begin(), tokens.end(), reply.token));
  Region& region = regions_.at(reply.token);
  if (--region.replies_in_flight > 0 || !region.withdrawn) return;
  const auto withdrawn = std::move(region.withdrawn);
  regions_.erase(reply.token);
  withdrawn();
}

void MessageServer::Drop(std::map<std::string, std::unique_ptr<Requester>>::iterator requester) {
  requester->second->jobs.clear();
  requester->second->endpoint->StartClose();
  closing_.push_back(std::move(requester->second));
  requesters_.erase(requester);
  --counters_.requesters_open;
}

void MessageServer::DropFailed() {
  for (auto it = requesters_.begin(); it != requesters_.end();) {
    const auto current = it++;
    if (!current->second->endpoint->failure().ok()) Drop(current);
  }
}

void MessageServer::DropAll() {
  while (!requesters_.empty()) Drop(requesters_.begin());
}

void MessageServer::DetachAll() {
  DropAll();
  for (const auto& requester : closing_) requester->endpoint->Detach();
}

bool MessageServer::Reap() {
  std::erase_if(closing_, [](const auto& requester) {
    return requester->endpoint->Closed() && requester->replies_in_flight == 0;
  });
  return closing_.empty();
}

}  // namespace stem
