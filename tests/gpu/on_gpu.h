// Host bytes and their copy on the GPU, for tests/gpu. Plain CUDA runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace stem::gpu {

// Ends the program on a CUDA error: nothing after it would mean anything.
inline void Must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s, %s\n", what, cudaGetErrorName(error), cudaGetErrorString(error));
  std::exit(1);
}

using Bytes = std::vector<std::byte>;

inline Bytes RandomBytes(size_t size, uint32_t seed) {
  Bytes bytes(size);
  std::mt19937 random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// GPU memory with the bytes of `host`, which start `shift` bytes into it.
class OnGpu {
 public:
  OnGpu(const Bytes& host, size_t shift) : size_(host.size()), shift_(shift) {
    Must(cudaMalloc(&memory_, size_ + shift_ + 1), "cudaMalloc");
    Must(cudaMemcpy(data(), host.data(), size_, cudaMemcpyHostToDevice), "copy to the GPU");
  }
  OnGpu(const OnGpu&) = delete;
  ~OnGpu() { cudaFree(memory_); }
  std::byte* data() const { return static_cast<std::byte*>(memory_) + shift_; }
  Bytes Back() const {
    Bytes bytes(size_);
    Must(cudaMemcpy(bytes.data(), data(), size_, cudaMemcpyDeviceToHost), "copy from the GPU");
    return bytes;
  }

 private:
  void* memory_ = nullptr;
  size_t size_;
  size_t shift_;
};

}  // namespace stem::gpu
