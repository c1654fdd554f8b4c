#include "storage/transport/ucx_handles.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/status.h"

namespace stem {
namespace {

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

}  // namespace

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

absl::StatusOr<std::string> WorkerAddress(ucp_worker_h worker) {
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  STEM_TRY(UcxStatus(ucp_worker_get_address(worker, &address, &bytes), "ucp_worker_get_address"));
  std::string copy(reinterpret_cast<const char*>(address), bytes);
  ucp_worker_release_address(worker, address);
  return copy;
}

absl::StatusOr<int> WorkerEventFd(ucp_worker_h worker) {
  int fd = -1;
  STEM_TRY(UcxStatus(ucp_worker_get_efd(worker, &fd), "ucp_worker_get_efd"));
  return fd;
}

absl::StatusOr<UcxMemory> UcxMemory::Map(ucp_context_h context, std::span<std::byte> memory) {
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = memory.data();
  params.length = memory.size();
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

absl::StatusOr<std::unique_ptr<UcxEndpoint>> UcxEndpoint::Create(ucp_worker_h worker, absl::string_view address,
                                                                 uint64_t& failures) {
  auto endpoint = std::unique_ptr<UcxEndpoint>(new UcxEndpoint(failures));
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.arg = endpoint.get();
  params.err_handler.cb = [](void* self, ucp_ep_h, ucs_status_t status) {
    auto* failed = static_cast<UcxEndpoint*>(self);
    failed->failure_ = absl::UnavailableError(absl::StrCat("peer lost: ", ucs_status_string(status)));
    ++failed->failures_;
  };
  STEM_TRY(UcxStatus(ucp_ep_create(worker, &params, &endpoint->handle_), "ucp_ep_create"));
  return endpoint;
}

UcxEndpoint::~UcxEndpoint() {
  if (handle_ != nullptr) Detach();
}

void UcxEndpoint::Detach() {
  if (!close_started_) StartClose();
  if (close_request_ != nullptr) ucp_request_free(std::exchange(close_request_, nullptr));
}

void UcxEndpoint::StartClose() {
  STEM_CHECK(!close_started_);
  close_started_ = true;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(handle_, &params);
  if (UCS_PTR_IS_PTR(request)) close_request_ = request;
}

bool UcxEndpoint::Closed() {
  if (!close_started_) return false;
  if (close_request_ == nullptr) return true;
  if (ucp_request_check_status(close_request_) == UCS_INPROGRESS) return false;
  ucp_request_free(close_request_);
  close_request_ = nullptr;
  return true;
}

}  // namespace stem
