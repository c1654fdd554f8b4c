// Launchers of the CUDA kernels, in plain types: the .cu files and tests/gpu need nothing but nvcc. All queue work on
// `stream` and return at once; none allocates or synchronises. Internal to kernels/ and tests/gpu.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/copy_plan.h"

namespace stem {

// `plan` with device addresses in `layers` and `block`; the arrays `layers` and `pages` are the host's and are read
// before the return.
cudaError_t LaunchCopy(const CopyPlan& plan, cudaStream_t stream);

// Namespace (2 words), key (2 words), payload bytes: what the digest covers before the chunk hashes.
inline constexpr unsigned kDigestHeadWords = 5;
struct DigestHead {
  uint64_t words[kDigestHeadWords];
};

// `message`: kDigestHeadWords + chunk count words; holds the head and then the chunk hashes afterwards.
cudaError_t LaunchDigest(const DigestHead& head, const void* payload, uint64_t* message, uint64_t* digest,
                         cudaStream_t stream);

}  // namespace stem
