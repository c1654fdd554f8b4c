// RAII over UCP's handles, in UCP's own words, and the one place where ucs_status_t becomes absl::Status.
// Every handle is used and destroyed on the thread that progresses its worker, or before that thread starts and after
// it has ended.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stem {

// `doing` names the call, for the message: "ucp_mem_map of 4096 bytes".
absl::Status UcxStatus(ucs_status_t status, absl::string_view doing);

struct UcxDeleter {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
  void operator()(ucp_context_h context) const { ucp_cleanup(context); }
  void operator()(ucp_worker_h worker) const { ucp_worker_destroy(worker); }
  void operator()(ucp_rkey_h rkey) const { ucp_rkey_destroy(rkey); }
};
using UcxConfig = std::unique_ptr<ucp_config_t, UcxDeleter>;
using UcxContext = std::unique_ptr<ucp_context, UcxDeleter>;
using UcxWorker = std::unique_ptr<ucp_worker, UcxDeleter>;
using UcxRemoteKey = std::unique_ptr<ucp_rkey, UcxDeleter>;

// Needs UCP_FEATURE_WAKEUP in its context.
absl::StatusOr<UcxWorker> CreateWorker(ucp_context_h context);
absl::StatusOr<int> WorkerEventFd(ucp_worker_h worker);

// Takes connections for a worker. The callback of UCX only takes note of them: an endpoint must not be made in the
// middle of its progress.
class UcxListener {
 public:
  // Binds `host`, an IPv4 or IPv6 address in numbers, and a port that the system picks. At most `waiting_max`
  // connections wait to be taken; more are refused.
  static absl::StatusOr<std::unique_ptr<UcxListener>> Listen(ucp_worker_h worker, const std::string& host,
                                                             size_t waiting_max);
  ~UcxListener();
  UcxListener(const UcxListener&) = delete;
  UcxListener& operator=(const UcxListener&) = delete;

  const std::string& address() const { return address_; }  // "127.0.0.1:1234", "[::1]:1234"
  // Each must be made an endpoint, or rejected.
  std::vector<ucp_conn_request_h> TakeWaiting() { return std::exchange(waiting_, {}); }
  bool any_waiting() const { return !waiting_.empty(); }
  // Refuses one that was taken, instead of making it an endpoint.
  void Reject(ucp_conn_request_h connection) { ucp_listener_reject(handle_, connection); }

 private:
  explicit UcxListener(size_t waiting_max) : waiting_max_(waiting_max) {}
  const size_t waiting_max_;
  ucp_listener_h handle_ = nullptr;
  std::string address_;
  std::vector<ucp_conn_request_h> waiting_;
};

// Memory that is registered with a context until this is destroyed.
class UcxMemory {
 public:
  static absl::StatusOr<UcxMemory> Map(ucp_context_h context, std::span<std::byte> memory);
  UcxMemory(UcxMemory&& other) noexcept;
  UcxMemory& operator=(UcxMemory&&) = delete;
  ~UcxMemory();

  ucp_mem_h handle() const { return handle_; }
  absl::StatusOr<std::string> PackRemoteKey() const;

 private:
  UcxMemory(ucp_context_h context, ucp_mem_h handle) : context_(context), handle_(handle) {}
  ucp_context_h context_;
  ucp_mem_h handle_;
};

// An endpoint in peer-failure mode. A failure is only noted: UCX calls back in the middle of its progress, where an
// endpoint must not be closed.
class UcxEndpoint {
 public:
  // Begins to connect to a listener's address(). `failures` is counted up at each failure and must outlive this.
  static absl::StatusOr<std::unique_ptr<UcxEndpoint>> Connect(ucp_worker_h worker, absl::string_view address,
                                                              uint64_t& failures);
  // Takes a connection. Uses `connection` up.
  static absl::StatusOr<std::unique_ptr<UcxEndpoint>> Accept(ucp_worker_h worker, ucp_conn_request_h connection,
                                                             uint64_t& failures);
  // Starts to close if nobody did; UCX frees what is left as its worker progresses.
  ~UcxEndpoint();
  UcxEndpoint(const UcxEndpoint&) = delete;
  UcxEndpoint& operator=(const UcxEndpoint&) = delete;

  ucp_ep_h handle() const { return handle_; }
  const absl::Status& failure() const { return failure_; }

  // Forced: operations under way end with an error through their callbacks, soon after. Once.
  void StartClose();
  // True once a close that was started is complete.
  bool Closed();
  // Leaves a close that is not complete to the worker, which is about to be destroyed.
  void Detach();

 private:
  explicit UcxEndpoint(uint64_t& failures) : failures_(failures) {}
  absl::Status Open(ucp_worker_h worker, ucp_ep_params_t params);
  uint64_t& failures_;
  ucp_ep_h handle_ = nullptr;
  void* close_request_ = nullptr;
  bool close_started_ = false;
  absl::Status failure_;
};

}  // namespace stem
