// What a call to a sidecar could cost at least: an empty message there and back on an open gRPC stream over a Unix socket.
#pragma once

#include <cstdint>

#include "services/ctl/latency_histogram.h"
#include "proto/status.h"

namespace stem {

// Exchanges `messages` with a server in this process, one at a time. Errors: Unavailable (no socket, or the stream broke).
absl::StatusOr<LatencyHistogram> MeasureStreamEcho(uint32_t messages);

}  // namespace stem
