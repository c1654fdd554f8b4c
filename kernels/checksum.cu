// The payload digest on the GPU: one warp per 4 KiB chunk, then one warp over the name and the chunk hashes.
#include "kernels/launch.h"
#include "kernels/warp_hash.cuh"

namespace stem {
namespace {

__global__ void HashChunks(const unsigned char* payload, uint64_t length, DigestHead head, uint64_t* message) {
  const uint64_t chunk = uint64_t{blockIdx.x} * kWarpsPerBlock + threadIdx.x / kWarp;
  if (chunk == 0 && threadIdx.x < kDigestHeadWords) message[threadIdx.x] = head.words[threadIdx.x];
  if (chunk * kChunk >= length) return;  // the whole warp
  const uint64_t rest = length - chunk * kChunk;
  const uint64_t hash = WarpHash(payload + chunk * kChunk, rest < kChunk ? rest : kChunk);
  if (threadIdx.x % kWarp == 0) message[kDigestHeadWords + chunk] = hash;
}

__global__ void HashMessage(const uint64_t* message, uint64_t bytes, uint64_t* digest) {
  const uint64_t hash = WarpHash(reinterpret_cast<const unsigned char*>(message), bytes);
  if (threadIdx.x == 0) *digest = hash;
}

}  // namespace

cudaError_t LaunchDigest(const DigestHead& head, const void* payload, uint64_t* message, uint64_t* digest,
                         cudaStream_t stream) {
  const uint64_t length = head.words[kDigestHeadWords - 1];
  const uint64_t chunks = length / kChunk + (length % kChunk != 0 ? 1 : 0);
  const auto blocks = static_cast<unsigned>(chunks == 0 ? 1 : (chunks + kWarpsPerBlock - 1) / kWarpsPerBlock);
  HashChunks<<<blocks, kWarpsPerBlock * kWarp, 0, stream>>>(static_cast<const unsigned char*>(payload), length, head,
                                                            message);
  HashMessage<<<1, kWarp, 0, stream>>>(message, 8 * (kDigestHeadWords + chunks), digest);
  return cudaGetLastError();
}

}  // namespace stem
