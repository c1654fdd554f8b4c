// What each lane really does, found out at start: this process reads memory of its own over one lane after the other.
// UCX's own figures are no help (11.91 MB/s for loopback TCP in 1.13), and a slow device that was picked by mistake
// shows in nothing else. What lies between two hosts a process cannot see alone: the figures are the most to hope for.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "storage/transport/ucx_context.h"

namespace stem {

struct LaneProbe {
  std::string lane;              // "tcp/lo", "rc_mlx5/mlx5_0:1"
  absl::Status status;           // why it could not be read over; the rest is then unset
  absl::Duration latency;        // of a read of 64 bytes, median
  double bytes_per_second = 0;   // of reads of 1 MiB blocks, the best of a few
  std::vector<std::string> memory_types;  // that UCX moves over it: "host", "cuda"

  std::string ToString() const;  // "tcp/lo: 31us, 4.20 GB/s, host", or with the reason that there are no figures
};

// Probes every lane that a transport of `options` may send payload over, some 10 ms each. Errors as ConfigureUcx's; what
// fails on one lane is in its status.
absl::StatusOr<std::vector<LaneProbe>> ProbeLanes(const UcxOptions& options);

// FailedPrecondition: a lane does less than `bytes_per_second_min`, or cannot be measured, or, with 0, none works: names the
// lane, its figure and the minimum.
absl::Status CheckLanes(std::span<const LaneProbe> probes, uint64_t bytes_per_second_min);

}  // namespace stem
