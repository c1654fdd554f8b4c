#include "storage/transport/ucx_context.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "proto/status.h"
#include "storage/transport/message_format.h"

extern "C" {
#include <ucs/memory/memory_type.h>
}

namespace stem {
namespace {

constexpr uint64_t kSegmentBytesMin = 8 * 1024;
constexpr uint64_t kSegmentBytesMax = 16 * 1024 * 1024;
constexpr uint64_t kSocketBufferBytesMax = 1024 * 1024 * 1024;
// Room for UCX's and our headers beside a full segment of payload.
constexpr uint64_t kSegmentHeaderBytes = 384 + kRepliesPerMessageMax * sizeof(ReadReplyBytes);
constexpr const char* kLoopbackDevice = "lo";
constexpr const char* kRdmaLanes = "ib";        // UCX's name for all of rc, dc and ud
constexpr const char* kGpuLanes = ",cuda_copy,cuda_ipc";

absl::Status Set(const UcxConfig& config, const char* name, const std::string& value) {
  return UcxStatus(ucp_config_modify(config.get(), name, value.c_str()),
                   absl::StrCat("UCX setting ", name, "=", value));
}

// A setting of TCP's own. Without a prefix until UCX 1.20, which takes any name and warns of wrong ones; since then with one.
absl::Status SetTcp(const UcxConfig& config, const std::string& name, uint64_t value) {
  const std::string text = absl::StrCat(value);
  const absl::Status old = Set(config, name.c_str(), text);
  return absl::IsInvalidArgument(old) ? Set(config, absl::StrCat("TCP_", name).c_str(), text) : old;
}

absl::StatusOr<UcxContext> OpenContext(const UcxOptions& options, const std::string& tls, uint64_t features) {
  ucp_config_t* read = nullptr;
  STEM_TRY(UcxStatus(ucp_config_read(nullptr, nullptr, &read), "ucp_config_read"));
  const UcxConfig config(read);
  STEM_TRY(Set(config, "TLS", tls));
  const std::string devices = options.loopback_only ? kLoopbackDevice : options.devices;
  if (!devices.empty()) STEM_TRY(Set(config, "NET_DEVICES", devices));
  STEM_TRY(SetTcp(config, "TX_SEG_SIZE", options.segment_bytes + kSegmentHeaderBytes));
  STEM_TRY(SetTcp(config, "RX_SEG_SIZE", options.segment_bytes + kSegmentHeaderBytes));
  STEM_TRY(SetTcp(config, "MAX_IOV", kRepliesPerMessageMax));
  STEM_TRY(SetTcp(config, "SNDBUF", options.socket_buffer_bytes));
  STEM_TRY(SetTcp(config, "RCVBUF", options.socket_buffer_bytes));
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = features;
  ucp_context_h context = nullptr;
  STEM_TRY(UcxStatus(ucp_init(&params, config.get(), &context), absl::StrCat("ucp_init with UCX_TLS=", tls)));
  return UcxContext(context);
}

// "tcp/lo", "rc_mlx5/mlx5_0:1", ...: UCX has no call for it, but prints it.
std::vector<std::string> Lanes(ucp_context_h context) {
  char* text = nullptr;
  size_t bytes = 0;
  FILE* stream = open_memstream(&text, &bytes);
  if (stream == nullptr) return {};
  ucp_context_print_info(context, stream);
  std::fclose(stream);
  std::vector<std::string> lanes;
  for (const absl::string_view line : absl::StrSplit(absl::string_view(text, bytes), '\n')) {
    if (line.find(" resource ") == absl::string_view::npos) continue;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipWhitespace());
    if (!words.empty()) lanes.emplace_back(words.back());
  }
  std::free(text);
  return lanes;
}

std::vector<std::string> MemoryTypes(ucp_context_h context) {
  ucp_context_attr_t attributes{};
  attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES;
  if (ucp_context_query(context, &attributes) != UCS_OK) return {};
  std::vector<std::string> names;
  for (int type = UCS_MEMORY_TYPE_HOST; type < UCS_MEMORY_TYPE_LAST; ++type) {
    if ((attributes.memory_types >> type & 1) != 0) names.emplace_back(ucs_memory_type_names[type]);
  }
  return names;
}

bool HasRdma(const std::vector<std::string>& lanes) {
  for (const std::string& lane : lanes) {
    if (lane.rfind("rc", 0) == 0 || lane.rfind("dc", 0) == 0) return true;
  }
  return false;
}

bool HasTcp(const std::vector<std::string>& lanes) {
  for (const std::string& lane : lanes) {
    if (lane.rfind("tcp", 0) == 0) return true;
  }
  return false;
}

std::string ChooseLanes(const UcxOptions& options) {
  if (!options.tls.empty()) return options.tls;
  if (options.loopback_only) return "tcp";
  const auto probe = OpenContext(options, "^shm,self", UCP_FEATURE_AM | UCP_FEATURE_WAKEUP);
  return probe.ok() && HasRdma(Lanes(probe->get())) ? kRdmaLanes : "tcp";
}

absl::Status CheckRange(absl::string_view name, uint64_t value, uint64_t min, uint64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; want ", min, "..", max));
}

}  // namespace

absl::StatusOr<ConfiguredUcx> ConfigureUcx(const UcxOptions& options) {
  STEM_TRY(CheckRange("segment_bytes", options.segment_bytes, kSegmentBytesMin, kSegmentBytesMax));
  STEM_TRY(CheckRange("socket_buffer_bytes", options.socket_buffer_bytes, kSegmentBytesMin, kSocketBufferBytesMax));
  if (options.loopback_only && options.listen_host != "127.0.0.1") {
    return absl::InvalidArgumentError(absl::StrCat("listen_host is ", options.listen_host, ", but only loopback is "
                                                   "allowed: want 127.0.0.1, or loopback_only off"));
  }
  if (options.loopback_only && !options.devices.empty() && options.devices != kLoopbackDevice) {
    return absl::InvalidArgumentError(absl::StrCat("devices is ", options.devices, ", but only loopback is allowed: want "
                                                   "none or lo, or loopback_only off"));
  }
  const std::string tls = absl::StrCat(ChooseLanes(options), options.gpu ? kGpuLanes : "");
  ConfiguredUcx ucx;
  STEM_ASSIGN(ucx.context, OpenContext(options, tls, UCP_FEATURE_AM | UCP_FEATURE_WAKEUP));
  ucx.lanes = Lanes(ucx.context.get());
  ucx.reads_by_messages = options.read_path == ReadPath::kMessages ||
                          (options.read_path == ReadPath::kAuto && (!HasRdma(ucx.lanes) || HasTcp(ucx.lanes)));
  if (!ucx.reads_by_messages) {
    // RMA is asked for only here: a worker that has it serves emulated gets at any address to whoever connects.
    STEM_ASSIGN(ucx.context, OpenContext(options, tls, UCP_FEATURE_RMA | UCP_FEATURE_WAKEUP));
    ucx.lanes = Lanes(ucx.context.get());
  }
  ucx.memory_types = MemoryTypes(ucx.context.get());
  ucx.description = absl::StrCat(
      "UCX ", ucp_get_version_string(), ", lanes ", absl::StrJoin(ucx.lanes, " "), " (UCX_TLS=", tls, "), reads by ",
      ucx.reads_by_messages ? "messages" : "one-sided gets", ", segments of ", options.segment_bytes >> 10,
      " KiB, socket buffers of ", options.socket_buffer_bytes >> 10, " KiB",
      options.loopback_only ? ", loopback only" : ", all network devices");
  return ucx;
}

}  // namespace stem
