// The caller's memory for some blocks of one size, block by block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stem::testing {

struct Pages {
  Pages(size_t blocks, uint64_t block_bytes) : memory(blocks * block_bytes) {
    for (size_t i = 0; i < blocks; ++i) spans.push_back(std::span(memory).subspan(i * block_bytes, block_bytes));
  }
  Pages(const Pages&) = delete;

  std::vector<std::byte> memory;
  std::vector<std::span<std::byte>> spans;
};

}  // namespace stem::testing
