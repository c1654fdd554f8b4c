// RAII over UCP's handles, in UCP's own words, and the one place where ucs_status_t becomes absl::Status.
// Every handle is used and destroyed on the thread that progresses its worker, or before that thread starts and after
// it has ended.
#pragma once

#include <ucp/api/ucp.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "storage/transport/transport.h"

namespace stem {

// As UCX calls it.
ucs_memory_type_t UcxMemoryType(MemoryPlace place);

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
  // Binds `host`, an IPv4 or IPv6 address in numbers, and a port that the system picks. Each connection that waits
  // holds a descriptor of the process, which bounds them.
  static absl::StatusOr<std::unique_ptr<UcxListener>> Listen(ucp_worker_h worker, const std::string& host);
  // Right before the worker's end, with nothing waiting, and flushed: UCX before 1.14 calls a listener that is
  // destroyed, from a thread of its own, for each connection that it had accepted and not yet read from.
  ~UcxListener();
  UcxListener(const UcxListener&) = delete;
  UcxListener& operator=(const UcxListener&) = delete;

  const std::string& address() const { return address_; }  // "127.0.0.1:1234", "[::1]:1234"
  // Each must be made an endpoint, also to be closed at once: what is rejected may end the process (openucx/ucx#11235).
  std::vector<ucp_conn_request_h> TakeWaiting() { return std::exchange(waiting_, {}); }
  bool any_waiting() const { return !waiting_.empty(); }
  // Stands in the line of connections as its last, and hangs up.
  void StartFlush();
  // True once UCX has noticed that, and so has read from those who stood before. Never blocks.
  bool Flushed();

 private:
  UcxListener() = default;
  int flush_fd_ = -1;
  ucp_listener_h handle_ = nullptr;
  std::string address_;
  std::vector<ucp_conn_request_h> waiting_;
};

// Memory that is registered with a context until this is destroyed.
class UcxMemory {
 public:
  static absl::StatusOr<UcxMemory> Map(ucp_context_h context, std::span<std::byte> memory, MemoryPlace place);
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
  // True until it is connected, or has failed.
  bool Connecting();

  // Forced: operations under way end with an error through their callbacks, soon after. Once. An endpoint that is still
  // being connected is closed when it is, or after a second: UCX 1.13 ends the process when it is closed in between.
  void StartClose();
  // True once a close that was started is complete. To be asked now and then: it is what goes on with one that waits.
  bool Closed();
  // Leaves a close that is not complete to the worker, which is about to be destroyed.
  void Detach();

 private:
  explicit UcxEndpoint(uint64_t& failures) : failures_(failures) {}
  absl::Status Open(ucp_worker_h worker, ucp_ep_params_t params);
  void CloseNow();
  uint64_t& failures_;
  ucp_ep_h handle_ = nullptr;
  void* connect_request_ = nullptr;  // a flush, which ends when the endpoint is connected or has failed
  void* close_request_ = nullptr;
  std::optional<std::chrono::steady_clock::time_point> close_by_;  // set: a close was started
  bool closed_now_ = false;                                        // UCX was told
  absl::Status failure_;
};

}  // namespace stem
