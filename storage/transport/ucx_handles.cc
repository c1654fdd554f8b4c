#include "storage/transport/ucx_handles.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/check.h"
#include "proto/status.h"

namespace stem {
namespace {

constexpr auto kConnectMax = std::chrono::seconds(1);  // that a close waits for its endpoint to be connected

absl::StatusCode CodeOf(ucs_status_t status) {
  switch (status) {
    case UCS_OK: return absl::StatusCode::kOk;
    case UCS_ERR_NO_MEMORY:
    case UCS_ERR_NO_RESOURCE:
    case UCS_ERR_EXCEEDS_LIMIT: return absl::StatusCode::kResourceExhausted;
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR:
    case UCS_ERR_MESSAGE_TRUNCATED: return absl::StatusCode::kInvalidArgument;
    case UCS_ERR_CANCELED: return absl::StatusCode::kCancelled;
    case UCS_ERR_UNSUPPORTED:
    case UCS_ERR_NOT_IMPLEMENTED: return absl::StatusCode::kUnimplemented;
    case UCS_ERR_NO_DEVICE:
    case UCS_ERR_UNREACHABLE:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_REJECTED:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_IO_ERROR: return absl::StatusCode::kUnavailable;
    default: return absl::StatusCode::kInternal;
  }
}

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
};

absl::StatusOr<SocketAddress> ParseHost(const std::string& host, uint16_t port) {
  SocketAddress address;
  auto* const v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* const v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.bytes = sizeof *v4;
  } else if (inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.bytes = sizeof *v6;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(host.substr(0, 64)),
                                                   "\" is no IP address in numbers, like 127.0.0.1"));
  }
  return address;
}

// "127.0.0.1:1234" or "[::1]:1234".
absl::StatusOr<SocketAddress> ParseAddress(absl::string_view address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port) || port == 0 ||
      port > UINT16_MAX) {
    return absl::InvalidArgumentError("peer's address has no port in 1..65535");
  }
  absl::string_view host = address.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[") && !absl::ConsumeSuffix(&host, "]")) host = {};
  return ParseHost(std::string(host), static_cast<uint16_t>(port));
}

std::string FormatAddress(const std::string& host, const sockaddr_storage& bound) {
  if (bound.ss_family == AF_INET6) {
    return absl::StrCat("[", host, "]:", ntohs(reinterpret_cast<const sockaddr_in6*>(&bound)->sin6_port));
  }
  return absl::StrCat(host, ":", ntohs(reinterpret_cast<const sockaddr_in*>(&bound)->sin_port));
}

}  // namespace

ucs_memory_type_t UcxMemoryType(MemoryPlace place) {
  return place == MemoryPlace::kGpu ? UCS_MEMORY_TYPE_CUDA : UCS_MEMORY_TYPE_HOST;
}

absl::Status UcxStatus(ucs_status_t status, absl::string_view doing) {
  if (status == UCS_OK) return absl::OkStatus();
  return absl::Status(CodeOf(status), absl::StrCat(doing, ": ", ucs_status_string(status)));
}

absl::StatusOr<UcxWorker> CreateWorker(ucp_context_h context) {
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  // Made and destroyed by the transport's thread of construction, used by its progress thread: never two at once.
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  ucp_worker_h worker = nullptr;
  STEM_TRY(UcxStatus(ucp_worker_create(context, &params, &worker), "ucp_worker_create"));
  return UcxWorker(worker);
}

absl::StatusOr<int> WorkerEventFd(ucp_worker_h worker) {
  int fd = -1;
  STEM_TRY(UcxStatus(ucp_worker_get_efd(worker, &fd), "ucp_worker_get_efd"));
  return fd;
}

absl::StatusOr<UcxMemory> UcxMemory::Map(ucp_context_h context, std::span<std::byte> memory, MemoryPlace place) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE;
  params.address = memory.data();
  params.length = memory.size();
  params.memory_type = UcxMemoryType(place);
  ucp_mem_h handle = nullptr;
  STEM_TRY(UcxStatus(ucp_mem_map(context, &params, &handle), absl::StrCat("ucp_mem_map of ", memory.size(), " bytes")));
  return UcxMemory(context, handle);
}

UcxMemory::UcxMemory(UcxMemory&& other) noexcept
    : context_(other.context_), handle_(std::exchange(other.handle_, nullptr)) {}

UcxMemory::~UcxMemory() {
  if (handle_ != nullptr) ucp_mem_unmap(context_, handle_);
}

absl::StatusOr<std::string> UcxMemory::PackRemoteKey() const {
  void* packed = nullptr;
  size_t bytes = 0;
  STEM_TRY(UcxStatus(ucp_rkey_pack(context_, handle_, &packed, &bytes), "ucp_rkey_pack"));
  std::string copy(static_cast<const char*>(packed), bytes);
  ucp_rkey_buffer_release(packed);
  return copy;
}

absl::StatusOr<std::unique_ptr<UcxListener>> UcxListener::Listen(ucp_worker_h worker, const std::string& host) {
  STEM_ASSIGN(const SocketAddress bound, ParseHost(host, 0));
  std::unique_ptr<UcxListener> listener(new UcxListener());
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr = {.addr = reinterpret_cast<const sockaddr*>(&bound.storage), .addrlen = bound.bytes};
  params.conn_handler.arg = listener.get();
  params.conn_handler.cb = [](ucp_conn_request_h connection, void* self) {
    static_cast<UcxListener*>(self)->waiting_.push_back(connection);
  };
  STEM_TRY(UcxStatus(ucp_listener_create(worker, &params, &listener->handle_), absl::StrCat("listening on ", host)));
  ucp_listener_attr_t attributes{};
  attributes.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  STEM_TRY(UcxStatus(ucp_listener_query(listener->handle_, &attributes), "ucp_listener_query"));
  listener->address_ = FormatAddress(host, attributes.sockaddr);
  return listener;
}

UcxListener::~UcxListener() {
  STEM_CHECK(waiting_.empty());
  if (handle_ != nullptr) ucp_listener_destroy(handle_);
  if (flush_fd_ >= 0) close(flush_fd_);
}

void UcxListener::StartFlush() {
  const auto own = ParseAddress(address_);
  STEM_CHECK(own.ok() && flush_fd_ < 0);
  flush_fd_ = socket(own->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (flush_fd_ < 0) return;  // out of descriptors: nobody could connect either
  connect(flush_fd_, reinterpret_cast<const sockaddr*>(&own->storage), own->bytes);
  shutdown(flush_fd_, SHUT_WR);
}

bool UcxListener::Flushed() {
  if (flush_fd_ < 0) return true;
  char byte = 0;
  const ssize_t got = recv(flush_fd_, &byte, sizeof byte, MSG_DONTWAIT);
  return got >= 0 || (errno != EAGAIN && errno != EINTR);
}

absl::StatusOr<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Connect(ucp_worker_h worker, absl::string_view address,
                                                                  uint64_t& failures) {
  STEM_ASSIGN(const SocketAddress peer, ParseAddress(address));
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(failures));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_FLAGS;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr = {.addr = reinterpret_cast<const sockaddr*>(&peer.storage), .addrlen = peer.bytes};
  STEM_TRY(endpoint->Open(worker, params));
  return endpoint;
}

absl::StatusOr<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Accept(ucp_worker_h worker, ucp_conn_request_h connection,
                                                                 uint64_t& failures) {
  std::unique_ptr<UcxEndpoint> endpoint(new UcxEndpoint(failures));
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST;
  params.conn_request = connection;
  STEM_TRY(endpoint->Open(worker, params));
  return endpoint;
}

absl::Status UcxEndpoint::Open(ucp_worker_h worker, ucp_ep_params_t params) {
  params.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = this;
  params.err_handler.cb = [](void* self, ucp_ep_h, ucs_status_t status) {
    auto* const failed = static_cast<UcxEndpoint*>(self);
    failed->failure_ = absl::UnavailableError(absl::StrCat("peer lost: ", ucs_status_string(status)));
    ++failed->failures_;
  };
  STEM_TRY(UcxStatus(ucp_ep_create(worker, &params, &handle_), "ucp_ep_create"));
  const ucp_request_param_t flush{};
  const ucs_status_ptr_t request = ucp_ep_flush_nbx(handle_, &flush);
  if (UCS_PTR_IS_PTR(request)) connect_request_ = request;
  return absl::OkStatus();
}

UcxEndpoint::~UcxEndpoint() {
  if (handle_ != nullptr) Detach();
}

void UcxEndpoint::Detach() {
  if (!closed_now_) CloseNow();
  for (void** const request : {&connect_request_, &close_request_}) {
    if (*request != nullptr) ucp_request_free(std::exchange(*request, nullptr));
  }
}

bool UcxEndpoint::Connecting() {
  if (connect_request_ == nullptr) return false;
  if (ucp_request_check_status(connect_request_) == UCS_INPROGRESS) return true;
  ucp_request_free(std::exchange(connect_request_, nullptr));
  return false;
}

void UcxEndpoint::StartClose() {
  STEM_CHECK(!close_by_);
  close_by_ = std::chrono::steady_clock::now() + kConnectMax;
  if (!Connecting()) CloseNow();
}

void UcxEndpoint::CloseNow() {
  closed_now_ = true;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(handle_, &params);
  if (UCS_PTR_IS_PTR(request)) close_request_ = request;
}

bool UcxEndpoint::Closed() {
  if (!close_by_) return false;
  if (!closed_now_) {
    if (Connecting() && std::chrono::steady_clock::now() < *close_by_) return false;
    CloseNow();
  }
  for (void** const request : {&connect_request_, &close_request_}) {
    if (*request == nullptr) continue;
    if (ucp_request_check_status(*request) == UCS_INPROGRESS) return false;
    ucp_request_free(std::exchange(*request, nullptr));
  }
  return true;
}

}  // namespace stem
