// The seam to CUDA: every cudaError_t becomes an absl::Status here.
#include "kernels/device.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "absl/strings/str_cat.h"
#include "kernels/block_copy.h"
#include "kernels/checksum.h"
#include "kernels/from_cuda.h"
#include "kernels/launch.h"
#include "kernels/plan_copy.h"
#include "kernels/quantize.h"
#include "kernels/retention.h"
#include "proto/status.h"

namespace stem {

absl::Status FromCuda(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  (void)cudaGetLastError();  // else the next launch is taken for the one that failed
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

namespace {

using block_copy_internal::PlanCopy;

absl::Status CheckOutput(uint64_t payload_bytes, const DigestOutput& output) {
  if (output.message.size() == DigestMessageWords(payload_bytes) && output.digest != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("a digest message of ", output.message.size(), " words",
                                                 output.digest == nullptr ? " and no place for the digest" : "",
                                                 "; a payload of ", payload_bytes, " bytes needs ",
                                                 DigestMessageWords(payload_bytes), " and a place"));
}

DigestHead HeadOf(const BlockName& name, uint64_t payload_bytes) {
  return {{name.space.low, name.space.high, name.key.low, name.key.high, payload_bytes}};
}

template <typename Block>
absl::Status CopyOnStream(const BlockShape& shape, const PagedCache& cache, std::span<const Block> blocks,
                          const Stream& stream) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const CopyPlan plan, PlanCopy(shape, cache, blocks, shape.block_bytes(), items));
  return FromCuda(LaunchCopy(plan, nullptr, stream.handle()), "launch of a block copy");
}

template <typename Block>
absl::Status CopyAndDigestOnStream(const BlockShape& shape, const PagedCache& cache, std::span<const Block> blocks,
                                   std::span<const BlockName> names, std::span<const DigestOutput> outputs,
                                   const Stream& stream) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const CopyPlan plan, PlanCopy(shape, cache, blocks, shape.block_bytes(), items));
  if (names.size() != blocks.size() || outputs.size() != blocks.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a batch of ", blocks.size(), " blocks with ", names.size(),
                                                   " names and ", outputs.size(), " digest outputs"));
  }
  if (plan.direction == CopyDirection::kGather && !plan.whole_block()) {
    return absl::InvalidArgumentError(absl::StrCat("a gather of ", plan.heads, " of ", plan.block_heads,
                                                   " heads has no digest of the block"));
  }
  LaunchedDigest digests[kBatchBlocksMax];
  for (size_t i = 0; i < blocks.size(); ++i) {
    STEM_TRY(CheckOutput(plan.block_bytes(), outputs[i]));
    digests[i] = {HeadOf(names[i], plan.block_bytes()), outputs[i].message.data(), outputs[i].digest};
  }
  return FromCuda(LaunchCopy(plan, digests, stream.handle()), "launch of a block copy with digests");
}

}  // namespace

bool cuda_available() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

absl::Status UseDevice(int device) { return FromCuda(cudaSetDevice(device), absl::StrCat("using GPU ", device)); }

namespace {

struct ContextCalls {
  decltype(cuCtxGetCurrent)* current = nullptr;
  decltype(cuCtxSetCurrent)* set_current = nullptr;
};

absl::StatusOr<ContextCalls> FindContextCalls() {
  int devices = 0;
  STEM_TRY(FromCuda(cudaGetDeviceCount(&devices), "counting GPUs"));
  ContextCalls calls;
  STEM_TRY(FindInDriver("cuCtxGetCurrent", calls.current));
  STEM_TRY(FindInDriver("cuCtxSetCurrent", calls.set_current));
  return calls;
}

const absl::StatusOr<ContextCalls>& TheContextCalls() {
  static const absl::StatusOr<ContextCalls> found = FindContextCalls();
  return found;
}

}  // namespace

OnDevice::OnDevice(int device) : status_(TheContextCalls().status()) {
  if (!status_.ok()) return;
  TheContextCalls()->current(&before_);
  status_ = UseDevice(device);
}

OnDevice::~OnDevice() {
  if (TheContextCalls().ok()) TheContextCalls()->set_current(before_);
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

absl::StatusOr<Event> Event::Create() {
  cudaEvent_t handle = nullptr;
  STEM_TRY(FromCuda(cudaEventCreateWithFlags(&handle, cudaEventDisableTiming | cudaEventBlockingSync), "creating an event"));
  return Event(handle);
}

Event::~Event() {
  if (handle_ != nullptr) cudaEventDestroy(handle_);
}

absl::Status Event::Record(const Stream& stream) {
  return FromCuda(cudaEventRecord(handle_, stream.handle()), "recording an event");
}

absl::StatusOr<bool> Event::Reached() const {
  const cudaError_t error = cudaEventQuery(handle_);
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();  // as FromCuda does
    return false;
  }
  STEM_TRY(FromCuda(error, "work before an event"));
  return true;
}

absl::Status Event::Synchronize() const { return FromCuda(cudaEventSynchronize(handle_), "work before an event"); }

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

absl::Status Gather(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                    const Stream& stream) {
  return CopyOnStream(shape, cache, blocks, stream);
}

absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                     const Stream& stream) {
  return CopyOnStream(shape, cache, blocks, stream);
}

absl::Status GatherAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockDestination> blocks,
                             std::span<const BlockName> names, std::span<const DigestOutput> outputs,
                             const Stream& stream) {
  return CopyAndDigestOnStream(shape, cache, blocks, names, outputs, stream);
}

absl::Status ScatterAndDigest(const BlockShape& shape, const PagedCache& cache, std::span<const BlockSource> blocks,
                              std::span<const BlockName> names, std::span<const DigestOutput> outputs,
                              const Stream& stream) {
  return CopyAndDigestOnStream(shape, cache, blocks, names, outputs, stream);
}

absl::Status GatherQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                             std::span<const BlockDestination> blocks, const Stream& stream) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const QuantPlan plan,
              quantize_internal::PlanQuantized(shape, cache, quantization, blocks, items));
  return FromCuda(LaunchQuantized(plan, stream.handle()), "launch of a quantizing gather");
}

absl::Status ScatterQuantized(const BlockShape& shape, const PagedCache& cache, const Quantization& quantization,
                              std::span<const BlockSource> blocks, const Stream& stream) {
  CopyItem items[kBatchBlocksMax];
  STEM_ASSIGN(const QuantPlan plan,
              quantize_internal::PlanQuantized(shape, cache, quantization, blocks, items));
  return FromCuda(LaunchQuantized(plan, stream.handle()), "launch of a dequantizing scatter");
}

absl::Status CompactTokens(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                           std::span<const uint32_t> kept, const Stream& stream) {
  CopyItem item;
  STEM_ASSIGN(const CopyPlan plan,
              retention_internal::PlanCompaction(shape, cache, pages, kept.size(), false, item));
  return FromCuda(LaunchCompaction(plan, kept.data(), static_cast<uint32_t>(kept.size()), stream.handle()),
                  "launch of a compaction");
}

absl::Status Digest(const BlockName& name, std::span<const std::byte> payload, const DigestOutput& output,
                    const Stream& stream) {
  STEM_TRY(CheckOutput(payload.size(), output));
  return FromCuda(LaunchDigest(HeadOf(name, payload.size()), payload.data(), output.message.data(), output.digest,
                               stream.handle()),
                  "launch of a digest");
}

}  // namespace stem
