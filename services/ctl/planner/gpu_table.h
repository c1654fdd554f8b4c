// Common GPUs: what a plan needs of them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem::planner {

struct Gpu {
  std::string name;
  double memory_gib = 0;         // that the driver reports, about
  double bandwidth_gb_s = 0;     // of its memory, 10^9 bytes a second; 0 = not known: no times
  double dense_bf16_tflops = 0;  // without sparsity; 0 = not known: no times
};

// Errors: InvalidArgument lists the names.
absl::StatusOr<Gpu> FindGpu(absl::string_view name);

std::string GpuNames();

}  // namespace stem::planner
