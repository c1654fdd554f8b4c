// Streams, events and memory of a GPU, owned. No CUDA header is included here, so any room may; without CUDA in the build
// the factories say Unimplemented. Errors of all: Unavailable (no GPU or driver), ResourceExhausted (no memory left,
// with the bytes asked for), Internal (any other CUDA error, by its name).
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct CUstream_st;  // what a cudaStream_t points to
struct CUevent_st;   // what a cudaEvent_t points to
struct CUctx_st;     // what a CUcontext points to

namespace stem {

// Whether kernels can run here: CUDA was compiled in, and a driver and a GPU are present. Asks the driver each time.
bool cuda_available();

// Makes GPU `device` (0..) the calling thread's current one, for good: for threads of one's own. Errors: Internal (no such device) too.
absl::Status UseDevice(int device);

// The same until the end of its life: then the thread has the context that it had, or none. (To make the device before it the current one
// again would make a context on it, half a GiB of a GPU that the thread may never use.)
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
  CUctx_st* before_ = nullptr;
};

// An order of work on the calling thread's current device. Any thread may queue; the caller orders threads.
class Stream {
 public:
  static absl::StatusOr<Stream> Create();
  // One that the engine owns and keeps alive.
  static Stream Borrow(CUstream_st* handle) { return Stream(handle, false); }

  Stream(Stream&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), owned_(std::exchange(other.owned_, false)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(owned_, other.owned_);
    return *this;
  }
  ~Stream();

  CUstream_st* handle() const { return handle_; }
  // Blocks until everything queued is done; returns the first error of that work.
  absl::Status Synchronize() const;
  // Queues a copy between any two of GPU, pinned and pageable memory; both must live until it is done.
  absl::Status Copy(std::span<std::byte> dst, std::span<const std::byte> src) const;

 private:
  Stream(CUstream_st* handle, bool owned) : handle_(handle), owned_(owned) {}

  CUstream_st* handle_;
  bool owned_;
};

// A point in a stream's order that the host can wait for or ask about. Threads: as of Stream.
class Event {
 public:
  static absl::StatusOr<Event> Create();

  Event(Event&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Event();

  // Stands for all work queued on `stream` so far; recorded anew, for all of it by then.
  absl::Status Record(const Stream& stream);
  // Whether the recorded work has ended, at once; the first error of that work.
  absl::StatusOr<bool> Reached() const;
  // Waits until it has, asleep; the first error of that work.
  absl::Status Synchronize() const;

 private:
  explicit Event(CUevent_st* handle) : handle_(handle) {}

  CUevent_st* handle_;
};

enum class MemoryKind : unsigned char { kDevice, kPinned };

// Owned memory of one kind, aligned to 256 bytes or more; freed after the last work that uses it (the caller's to see).
template <MemoryKind kKind>
class CudaBuffer {
 public:
  static absl::StatusOr<CudaBuffer> Allocate(size_t size_bytes);

  CudaBuffer(CudaBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  CudaBuffer& operator=(CudaBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }
  ~CudaBuffer();

  std::span<std::byte> bytes() const { return {data_, size_bytes_}; }

 private:
  CudaBuffer(std::byte* data, size_t size_bytes) : data_(data), size_bytes_(size_bytes) {}

  std::byte* data_;
  size_t size_bytes_;
};

using DeviceBuffer = CudaBuffer<MemoryKind::kDevice>;  // GPU memory: the host must not dereference it
using PinnedBuffer = CudaBuffer<MemoryKind::kPinned>;  // host memory that the GPU can address

}  // namespace stem
