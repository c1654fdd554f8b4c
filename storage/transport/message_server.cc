#include "storage/transport/message_server.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "proto/check.h"
#include "proto/status.h"

namespace stem {
namespace {

constexpr unsigned kIdleProgressBeforeAccept = 3;
constexpr unsigned kProgressBeforeAcceptMax = 1000;

}  // namespace

struct MessageServer::Message {
  template <typename T>
  using OfReplies = absl::InlinedVector<T, kRepliesPerMessageMax>;

  Message(MessageServer* sender, Requester* receiver) : server(sender), requester(receiver) {}

  MessageServer* const server;
  Requester* const requester;
  MemoryPlace place = MemoryPlace::kHost;  // of all its bytes
  uint64_t bytes = 0;
  OfReplies<uint64_t> tokens;  // of the regions that they lie in, one per reply with bytes
  // UCX reads these until the send ends.
  OfReplies<ReadReplyBytes> headers;
  OfReplies<ucp_dt_iov_t> pieces;
};

absl::StatusOr<std::unique_ptr<MessageServer>> MessageServer::Start(ucp_worker_h worker, const std::string& host,
                                                                    bool answers, Limits limits,
                                                                    TransportCounters& counters) {
  std::unique_ptr<MessageServer> server(new MessageServer(worker, limits, counters));
  if (answers) server->SetHandler();
  STEM_ASSIGN(server->listener_, UcxListener::Listen(worker, host));
  return server;
}

MessageServer::MessageServer(ucp_worker_h worker, Limits limits, TransportCounters& counters)
    : worker_(worker), limits_(limits), counters_(counters) {}

void MessageServer::SetHandler() {
  ucp_am_handler_param_t params{};
  params.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
  params.id = kReadRequestMessage;
  params.arg = this;
  params.cb = [](void* self, const void* header, size_t header_bytes, void* data, size_t data_bytes,
                 const ucp_am_recv_param_t* received) {
    if ((received->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return UCS_OK;  // of nobody we could answer
    const bool here = (received->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0;  // no requester sends it otherwise
    static_cast<MessageServer*>(self)->OnRequests({static_cast<const char*>(header), header_bytes},
                                                  {static_cast<const char*>(data), here ? data_bytes : 0}, received->reply_ep);
    return UCS_OK;
  };
  ucp_worker_set_am_recv_handler(worker_, &params);
}

void MessageServer::Offer(uint64_t token, std::span<const std::byte> memory, MemoryPlace place) {
  STEM_CHECK(regions_.emplace(token, Region{.memory = memory, .place = place}).second);
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

void MessageServer::OnRequests(absl::string_view header, absl::string_view payload, ucp_ep_h from) {
  const auto note = [&](absl::string_view bytes) {
    const auto request = DecodeReadRequest(bytes);
    if (request.ok() && arrivals_.size() < limits_.arrivals_max) {
      arrivals_.emplace_back(*request, from);
    } else {
      ++counters_.serves_refused;  // dropped: the deadline of the read ends it
    }
  };
  note(header);
  for (; !payload.empty(); payload.remove_prefix(std::min(payload.size(), sizeof(ReadRequestBytes)))) {
    note(payload.substr(0, sizeof(ReadRequestBytes)));
  }
}

void MessageServer::Queue(const ReadRequest& request, ucp_ep_h from) {
  const auto requester = requesters_.find(from);
  if (requester == requesters_.end()) return;  // cut off since
  if (requester->second->jobs.size() >= limits_.requests_queued_max) {
    ++counters_.serves_refused;
    return;
  }
  const absl::StatusCode refusal = Check(request);
  if (refusal != absl::StatusCode::kOk) ++counters_.serves_refused;
  const SteadyTime expires = std::chrono::steady_clock::now() + std::chrono::milliseconds(request.time_left_ms);
  requester->second->jobs.push_back({.request = request, .expires = expires, .refusal = refusal});
}

bool MessageServer::AcceptWaiting() {
  if (!listener_->any_waiting()) return false;
  // UCX 1.13 mistakes a connection that has failed, and that it has not yet taken back, for one of the new endpoint's,
  // and ends the process: so it first gets to take back all that have.
  unsigned idle = 0;
  for (unsigned i = 0; i < kProgressBeforeAcceptMax && idle < kIdleProgressBeforeAccept; ++i) {
    idle = ucp_worker_progress(worker_) != 0 ? 0 : idle + 1;
  }
  for (const ucp_conn_request_h connection : listener_->TakeWaiting()) {
    auto endpoint = UcxEndpoint::Accept(worker_, connection, endpoint_failures_);
    if (!endpoint.ok()) continue;  // gone before it was taken
    const ucp_ep_h handle = (*endpoint)->handle();
    auto requester = std::make_unique<Requester>();
    requester->endpoint = *std::move(endpoint);
    const auto accepted = requesters_.emplace(handle, std::move(requester)).first;
    ++counters_.requesters_open;
    if (accepting_ && requesters_.size() <= limits_.requesters_max) continue;
    ++counters_.serves_refused;
    Drop(accepted);
  }
  return true;
}

bool MessageServer::Pump() {
  bool did = AcceptWaiting();
  // Requests before failures: what a requester has asked is dropped with it, and not for whoever gets its handle next.
  for (; !arrivals_.empty(); arrivals_.pop_front()) Queue(arrivals_.front().first, arrivals_.front().second);
  DropFailed();
  const SteadyTime now = std::chrono::steady_clock::now();
  for (bool any = true; any;) {
    any = false;
    // One reply each in turn, so that a requester with much to ask does not hold up one with little.
    for (auto& [handle, requester] : requesters_) any |= SendNext(*requester, now);
    did |= any;
  }
  return did || endpoint_failures_ > 0;
}

void MessageServer::Fill(Message& message, SteadyTime now) {
  auto& jobs = message.requester->jobs;
  while (!jobs.empty() && message.headers.size() < kRepliesPerMessageMax && message.bytes < limits_.message_bytes_max) {
    Job& job = jobs.front();
    if (job.expires < now) {
      jobs.pop_front();
      continue;
    }
    if (job.refusal == absl::StatusCode::kOk) job.refusal = Check(job.request);  // withdrawn since
    uint64_t bytes = 0;
    if (job.refusal == absl::StatusCode::kOk) {
      const Region& region = regions_.at(job.request.region);
      // UCX gathers host memory; of a GPU's one piece at a time.
      if (message.bytes > 0 && (region.place == MemoryPlace::kGpu || message.place == MemoryPlace::kGpu)) return;
      message.place = region.place;
      bytes = std::min<uint64_t>(job.request.bytes - job.sent, limits_.message_bytes_max - message.bytes);
      const std::span<const std::byte> piece = region.memory.subspan(job.request.offset + job.sent, bytes);
      message.pieces.push_back({.buffer = const_cast<std::byte*>(piece.data()), .length = bytes});
      message.tokens.push_back(job.request.region);
    }
    message.headers.push_back(Encode(ReadReply{job.request.op, job.request.nonce, job.sent, bytes, job.refusal}));
    message.bytes += bytes;
    job.sent += bytes;
    if (job.refusal != absl::StatusCode::kOk || job.sent == job.request.bytes) jobs.pop_front();
  }
}

bool MessageServer::SendNext(Requester& requester, SteadyTime now) {
  if (requester.jobs.empty() || !requester.endpoint->failure().ok()) return false;
  if (requester.messages_in_flight >= limits_.messages_in_flight_max) return false;
  auto message = std::make_unique<Message>(this, &requester);
  Fill(*message, now);
  if (message->headers.empty()) return false;

  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  params.memory_type = UcxMemoryType(message->place);  // a GPU's is staged by UCX
  params.user_data = message.get();
  params.cb.send = [](void* request, ucs_status_t, void* data) {
    const std::unique_ptr<Message> ended(static_cast<Message*>(data));
    ucp_request_free(request);
    ended->server->Ended(*ended);
  };
  const void* payload = nullptr;
  size_t count = message->bytes;
  if (message->pieces.size() == 1) {
    payload = message->pieces.front().buffer;
  } else if (message->pieces.size() > 1) {
    params.op_attr_mask |= UCP_OP_ATTR_FIELD_DATATYPE;
    params.datatype = UCP_DATATYPE_IOV;
    payload = message->pieces.data();
    count = message->pieces.size();
  }
  const ucs_status_ptr_t sending =
      ucp_am_send_nbx(requester.endpoint->handle(), kReadReplyMessage, message->headers.data(),
                      message->headers.size() * sizeof(ReadReplyBytes), payload, count, &params);
  if (UCS_PTR_IS_ERR(sending)) {
    requester.jobs.clear();  // its endpoint has failed, and the failure handler is about to say so
    return false;
  }
  counters_.bytes_served += message->bytes;
  if (sending != nullptr) {
    ++requester.messages_in_flight;
    ++messages_in_flight_;
    for (const uint64_t token : message->tokens) {
      requester.tokens_in_flight.push_back(token);
      ++regions_.at(token).replies_in_flight;
    }
    message.release();
  }
  return true;
}

void MessageServer::Ended(const Message& message) {
  --message.requester->messages_in_flight;
  --messages_in_flight_;
  auto& tokens = message.requester->tokens_in_flight;
  for (const uint64_t token : message.tokens) {
    tokens.erase(std::find(tokens.begin(), tokens.end(), token));
    Region& region = regions_.at(token);
    if (--region.replies_in_flight > 0 || !region.withdrawn) continue;
    const auto withdrawn = std::move(region.withdrawn);
    regions_.erase(token);
    withdrawn();
  }
}

void MessageServer::Drop(std::map<ucp_ep_h, std::unique_ptr<Requester>>::iterator requester) {
  requester->second->jobs.clear();
  requester->second->endpoint->StartClose();
  closing_.push_back(std::move(requester->second));
  requesters_.erase(requester);
  --counters_.requesters_open;
}

void MessageServer::DropFailed() {
  if (std::exchange(endpoint_failures_, 0) == 0) return;
  for (auto it = requesters_.begin(); it != requesters_.end();) {
    const auto current = it++;
    if (!current->second->endpoint->failure().ok()) Drop(current);
  }
}

void MessageServer::DropAll() {
  if (std::exchange(accepting_, false)) listener_->StartFlush();
  while (!requesters_.empty()) Drop(requesters_.begin());
}

void MessageServer::DetachAll() {
  DropAll();
  AcceptWaiting();
  for (const auto& requester : closing_) requester->endpoint->Detach();
  listener_.reset();
}

bool MessageServer::Reap() {
  std::erase_if(closing_, [](const auto& requester) {
    return requester->endpoint->Closed() && requester->messages_in_flight == 0;
  });
  return closing_.empty() && (accepting_ || (listener_->Flushed() && !listener_->any_waiting()));
}

}  // namespace stem
