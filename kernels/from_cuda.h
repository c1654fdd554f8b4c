// The seam from CUDA's errors to absl::Status. Internal to kernels/; included only where CUDA is.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace stem {

// `what` was being done.
absl::Status FromCuda(cudaError_t error, absl::string_view what);

}  // namespace stem
