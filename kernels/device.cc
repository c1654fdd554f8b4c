// The seam to CUDA: every cudaError_t becomes an absl::Status here.
#include "kernels/device.h"

#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/block_copy.h"
#include "kernels/checksum.h"
#include "kernels/launch.h"
#include "proto/status.h"

namespace stem {
namespace {

absl::Status FromCuda(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorName(error), ", ", cudaGetErrorString(error));
  switch (error) {
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable: return absl::UnavailableError(message);
    case cudaErrorMemoryAllocation: return absl::ResourceExhaustedError(message);
    default: return absl::InternalError(message);
  }
}

absl::Status CopyOnStream(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                          std::span<std::byte> block, CopyDirection direction, const Stream& stream) {
  STEM_ASSIGN(const CopyPlan plan, block_copy_internal::PlanCopy(shape, cache, pages, block, direction));
  return FromCuda(LaunchCopy(plan, stream.handle()), "launch of a block copy");
}

}  // namespace

bool cuda_available() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

absl::StatusOr<Stream> Stream::Create() {
  cudaStream_t handle = nullptr;
  STEM_TRY(FromCuda(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "creating a stream"));
  return Stream(handle, true);
}

Stream::~Stream() {
  if (owned_) cudaStreamDestroy(handle_);
}

absl::Status Stream::Synchronize() const { return FromCuda(cudaStreamSynchronize(handle_), "work on a stream"); }

absl::Status Stream::Copy(std::span<std::byte> dst, std::span<const std::byte> src) const {
  if (dst.size() != src.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a copy of ", src.size(), " bytes into ", dst.size()));
  }
  return FromCuda(cudaMemcpyAsync(dst.data(), src.data(), src.size(), cudaMemcpyDefault, handle_), "queueing a copy");
}

template <MemoryKind kKind>
absl::StatusOr<CudaBuffer<kKind>> CudaBuffer<kKind>::Allocate(size_t size_bytes) {
  void* data = nullptr;
  const bool pinned = kKind == MemoryKind::kPinned;
  const cudaError_t error = pinned ? cudaMallocHost(&data, size_bytes) : cudaMalloc(&data, size_bytes);
  const char* const kind = pinned ? "pinned" : "GPU";
  STEM_TRY(FromCuda(error, absl::StrCat("allocating ", size_bytes, " bytes of ", kind, " memory")));
  return CudaBuffer(static_cast<std::byte*>(data), size_bytes);
}

template <MemoryKind kKind>
CudaBuffer<kKind>::~CudaBuffer() {
  if (data_ == nullptr) return;
  if (kKind == MemoryKind::kPinned) {
    cudaFreeHost(data_);
  } else {
    cudaFree(data_);
  }
}

template class CudaBuffer<MemoryKind::kDevice>;
template class CudaBuffer<MemoryKind::kPinned>;

absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                    std::span<std::byte> block, const Stream& stream) {
  return CopyOnStream(shape, cache, pages, block, CopyDirection::kGather, stream);
}

absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                     std::span<const std::byte> block, const Stream& stream) {
  return CopyOnStream(shape, cache, pages, block_copy_internal::Writable(block), CopyDirection::kScatter, stream);
}

absl::Status Digest(const BlockName& name, std::span<const std::byte> payload, const DigestOutput& output,
                    const Stream& stream) {
  if (output.message.size() != DigestMessageWords(payload.size()) || output.digest == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("a digest message of ", output.message.size(), " words",
                                                   output.digest == nullptr ? " and no place for the digest" : "",
                                                   "; a payload of ", payload.size(), " bytes needs ",
                                                   DigestMessageWords(payload.size()), " and a place"));
  }
  const DigestHead head = {{name.space.low, name.space.high, name.key.low, name.key.high, payload.size()}};
  return FromCuda(LaunchDigest(head, payload.data(), output.message.data(), output.digest, stream.handle()),
                  "launch of a digest");
}

}  // namespace stem
