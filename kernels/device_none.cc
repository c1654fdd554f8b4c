// The answers of a build without CUDA: no stream and no buffer can be made, so nothing else is ever reached.
#include "kernels/block_copy.h"
#include "kernels/checksum.h"
#include "kernels/device.h"
#include "kernels/device_arena.h"
#include "kernels/quantize.h"
#include "kernels/retention.h"

namespace stem {
namespace {

absl::Status NoCuda() {
  return absl::UnimplementedError("this build has no CUDA kernels; configure with -DSTEM_CUDA=ON");
}

}  // namespace

bool cuda_available() { return false; }

absl::Status UseDevice(int) { return NoCuda(); }
OnDevice::OnDevice(int) : status_(NoCuda()) {}
OnDevice::~OnDevice() = default;

absl::StatusOr<Stream> Stream::Create() { return NoCuda(); }
Stream::~Stream() = default;
absl::Status Stream::Synchronize() const { return NoCuda(); }
absl::Status Stream::Copy(std::span<std::byte>, std::span<const std::byte>) const { return NoCuda(); }

absl::StatusOr<Event> Event::Create() { return NoCuda(); }
Event::~Event() = default;
absl::Status Event::Record(const Stream&) { return NoCuda(); }
absl::StatusOr<bool> Event::Reached() const { return NoCuda(); }
absl::Status Event::Synchronize() const { return NoCuda(); }

absl::StatusOr<DeviceArena> DeviceArena::Create(int, size_t) { return NoCuda(); }
absl::StatusOr<DeviceArena> DeviceArena::Import(int, int, size_t) { return NoCuda(); }
DeviceArena::~DeviceArena() = default;
absl::StatusOr<int> DeviceArena::Export() const { return NoCuda(); }

template <MemoryKind kKind>
absl::StatusOr<CudaBuffer<kKind>> CudaBuffer<kKind>::Allocate(size_t) {
  return NoCuda();
}

template <MemoryKind kKind>
CudaBuffer<kKind>::~CudaBuffer() = default;

template class CudaBuffer<MemoryKind::kDevice>;
template class CudaBuffer<MemoryKind::kPinned>;

absl::Status Gather(const BlockShape&, const PagedCache&, std::span<const BlockDestination>, const Stream&) {
  return NoCuda();
}

absl::Status Scatter(const BlockShape&, const PagedCache&, std::span<const BlockSource>, const Stream&) {
  return NoCuda();
}

absl::Status GatherAndDigest(const BlockShape&, const PagedCache&, std::span<const BlockDestination>,
                             std::span<const BlockName>, std::span<const DigestOutput>, const Stream&) {
  return NoCuda();
}

absl::Status ScatterAndDigest(const BlockShape&, const PagedCache&, std::span<const BlockSource>,
                              std::span<const BlockName>, std::span<const DigestOutput>, const Stream&) {
  return NoCuda();
}

absl::Status GatherQuantized(const BlockShape&, const PagedCache&, const Quantization&,
                             std::span<const BlockDestination>, const Stream&) {
  return NoCuda();
}

absl::Status ScatterQuantized(const BlockShape&, const PagedCache&, const Quantization&, std::span<const BlockSource>,
                              const Stream&) {
  return NoCuda();
}

absl::Status CompactTokens(const BlockShape&, const PagedCache&, std::span<const uint32_t>, std::span<const uint32_t>,
                           const Stream&) {
  return NoCuda();
}

absl::Status Digest(const BlockName&, std::span<const std::byte>, const DigestOutput&, const Stream&) {
  return NoCuda();
}

}  // namespace stem
