// How UCX is configured: which lanes, which listeners, which segment sizes. Set through ucp_config_modify, so that
// the environment cannot change what the node says it does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "storage/transport/ucx_handles.h"

namespace stem {

// How memory is read over the chosen lanes. UCX emulates one-sided gets over TCP, but there an owner aborts when a
// requester dies in the middle (UCX 1.13, ucp_get_req_handler), and reads any address that a request names: so over
// TCP the reads are messages of ours, which the owner checks.
enum class ReadPath {
  kAuto,      // gets where every lane is RDMA, else messages
  kMessages,
  kGets,      // for tests: over TCP only between processes that trust each other not to die
};

struct UcxOptions {
  // UCX_TLS expression. Empty: RDMA lanes where there are any and loopback_only is off, else "tcp". Never shared
  // memory: peers on one host map each other's arenas instead.
  std::string tls;
  // UCX_NET_DEVICES expression. Empty: loopback with loopback_only, else all.
  std::string devices;
  // Every TCP listener of UCX binds loopback (law 9). Off: every device, or `devices`.
  bool loopback_only = true;
  // Where peers connect, an IP address in numbers; the port is the system's choice. With loopback_only 127.0.0.1.
  std::string listen_host = "127.0.0.1";
  ReadPath read_path = ReadPath::kAuto;
  // Lanes that move GPU memory too. A UCX without CUDA has none: GPU memory is then refused.
  bool gpu = false;
  // UCX's 8 KiB segments and the kernel's buffers cap TCP at a fifth of the socket (tests/bench/transport_bench.cc).
  uint64_t segment_bytes = 512 * 1024;
  uint64_t socket_buffer_bytes = 4 * 1024 * 1024;
};

struct ConfiguredUcx {
  UcxContext context;
  bool reads_by_messages = true;
  std::vector<std::string> lanes;         // "tcp/lo"
  std::vector<std::string> memory_types;  // that they move: "host", "cuda"
  bool moves_gpu_memory() const { return std::count(memory_types.begin(), memory_types.end(), "cuda") > 0; }
  std::string description;  // one line: lanes, devices, path, sizes
};

// InvalidArgument: an option out of range, named. Unavailable: no lane fits `tls`.
absl::StatusOr<ConfiguredUcx> ConfigureUcx(const UcxOptions& options);

}  // namespace stem
