// Launchers of the CUDA kernels, in plain types: the .cu files and tests/gpu need nothing but nvcc. All queue work on
// `stream` and return at once; none allocates or synchronises. Internal to kernels/ and tests/gpu.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/copy_plan.h"
#include "kernels/quant_plan.h"

namespace stem {

// Namespace (2 words), key (2 words), payload bytes: what the digest covers before the chunk hashes.
inline constexpr unsigned kDigestHeadWords = 5;
struct DigestHead {
  uint64_t words[kDigestHeadWords];
};

// Where the digest of one item goes. `message`: kDigestHeadWords + chunk count words; holds the head and then the chunk
// hashes afterwards.
struct LaunchedDigest {
  DigestHead head;
  uint64_t* message;
  uint64_t* digest;
};

// `plan` with device addresses in `layers` and in the items' `block`; the tables themselves are the host's and are read
// before the return. With `digests` (one for each item) also queues their digests, in the same pass over the bytes.
// One launch takes 128 layers, 4096 page ids and 512 blocks (128 with digests); more are several launches.
cudaError_t LaunchCopy(const CopyPlan& plan, const LaunchedDigest* digests, cudaStream_t stream);

cudaError_t LaunchDigest(const DigestHead& head, const void* payload, uint64_t* message, uint64_t* digest,
                         cudaStream_t stream);

// One warp per row, or one thread per channel. Same tables and limits as LaunchCopy.
cudaError_t LaunchQuantized(const QuantPlan& plan, cudaStream_t stream);

// Moves token kept[i] of the plan's only item to place i. That item's `pages` and `kept` are device addresses.
cudaError_t LaunchCompaction(const CopyPlan& plan, const uint32_t* kept, uint32_t kept_count, cudaStream_t stream);

}  // namespace stem
