// The seam from CUDA's errors to absl::Status. Internal to kernels/; included only where CUDA is.
#pragma once

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace stem {

// `what` was being done. An error that is told is no longer the thread's last one.
absl::Status FromCuda(cudaError_t error, absl::string_view what);

// One of the driver's calls, as of CUDA 10.2, looked up through the runtime: nothing links libcuda, and binaries start where no driver is.
template <typename Function>
absl::Status FindInDriver(const char* name, Function*& function) {
  constexpr unsigned kSinceVersion = 10020;
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(name, &found, kSinceVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess) return FromCuda(error, name);
  if (result != cudaDriverEntryPointSuccess || found == nullptr) return absl::UnimplementedError(absl::StrCat("the driver has no ", name));
  function = reinterpret_cast<Function*>(found);
  return absl::OkStatus();
}

}  // namespace stem
