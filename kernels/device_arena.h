// GPU memory that other processes map: what a sidecar would keep blocks in and export to its engines over the attach
// socket. Made with the driver's virtual memory calls and shared by file descriptor, which the driver counts: the memory
// lives until the last process that mapped it is gone, so an importer survives its exporter's death (legacy CUDA IPC
// handles leave that undefined). Compiled, and not yet run on a GPU.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace stem {

// Mapped for the GPU alone: the host must not dereference it. Every process that maps it may write, as the driver knows no
// read-only export: one arena per trust group, and readers prove what they read. Threads: any; it does not change.
// Errors of all: Unavailable (no GPU or driver), ResourceExhausted (no memory left, with the bytes asked for),
// Unimplemented (built without CUDA, or a driver that cannot share memory by descriptor), Internal (any other, by name).
class DeviceArena {
 public:
  // `size_bytes`, rounded up to what the GPU allocates, on GPU `device` (0..). Its bytes are undefined. Network devices may be
  // given it (GPUDirect RDMA) where GPU and driver can.
  static absl::StatusOr<DeviceArena> Create(int device, size_t size_bytes);

  // Maps the arena that `fd` names, from an Export() of this or another process. `size_bytes`: bytes().size() there. The
  // descriptor stays the caller's.
  static absl::StatusOr<DeviceArena> Import(int device, int fd, size_t size_bytes);

  DeviceArena(DeviceArena&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)),
        handle_(std::exchange(other.handle_, 0)) {}
  DeviceArena& operator=(DeviceArena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  // Unmaps; after the last work that uses it (the caller's to see).
  ~DeviceArena();

  // A new descriptor of the arena, to be sent with SCM_RIGHTS; the caller closes it.
  absl::StatusOr<int> Export() const;

  std::span<std::byte> bytes() const { return {data_, size_bytes_}; }

 private:
  DeviceArena(std::byte* data, size_t size_bytes, unsigned long long handle)
      : data_(data), size_bytes_(size_bytes), handle_(handle) {}
  static absl::StatusOr<DeviceArena> Map(int device, unsigned long long handle, size_t size_bytes);

  std::byte* data_;
  size_t size_bytes_;
  unsigned long long handle_;  // CUmemGenericAllocationHandle
};

}  // namespace stem
