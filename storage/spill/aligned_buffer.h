// Memory that O_DIRECT takes, for bytes whose own place or length it would refuse.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>

#include "proto/check.h"
#include "storage/block_meta.h"

namespace stem {

class AlignedBuffer {
 public:
  // `bytes`: a multiple of kSpillPageBytes.
  explicit AlignedBuffer(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kSpillPageBytes, bytes)));
    STEM_CHECK(memory_ != nullptr);
  }
  std::span<std::byte> bytes() const { return {memory_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_;
};

}  // namespace stem
