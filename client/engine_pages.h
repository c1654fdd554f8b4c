// An engine's KV cache as the tier's payloads see it: a payload is cut along the engine's pages, [plane][page][bytes], a plane being one layer,
// or K or V of one (proto/FORMAT.md, "Canonical blocks", opaque pages). Hybrid models have a block table for each group of layers, and one or
// several parts of a block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "client/stem.h"
#include "kernels/copy_queue.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"

namespace stem {

// Pages of one layer (K and V together, or one of them). Page p is `page_bytes` at base + p * stride_bytes.
struct EnginePlane {
  std::byte* base = nullptr;
  uint64_t page_bytes = 0;
  uint64_t stride_bytes = 0;
  uint32_t table = 0;  // the block table whose pages it has
};

// Planes that are one part of the namespace.
struct EnginePart {
  uint32_t id = 0;
  std::vector<EnginePlane> planes;  // in the order of the payload
};

// Borrowed: the memory must live as long as whoever is given this.
struct EnginePages {
  std::vector<EnginePart> parts;          // ids ascend
  uint32_t page_count = 0;                // ids of pages are below it
  std::vector<uint32_t> pages_per_block;  // of each block table: pages that hold one block's tokens
  // Makes the way to pages that the host cannot touch, with so many bytes of pinned memory: MakeGpuQueue. Empty = they are the host's.
  std::function<absl::StatusOr<std::unique_ptr<CopyQueue>>(size_t)> make_queue = {};

  uint64_t block_bytes(const EnginePart& part) const;
  uint64_t block_bytes_max() const;      // of any part
  uint32_t pages_of_all_tables() const;  // that hold one block
  std::vector<uint32_t> part_ids() const;
};

// InvalidArgument, with the value: planes that are null, do not fit their stride, or do not make up the payload of their part.
absl::Status CheckPages(const EnginePages& pages, const NamespaceSpec& space);

// A page that the engine does not want, or does not have.
inline constexpr int32_t kNoPage = -1;

// Page ids of block `at` of `blocks`, out of a list [table][block][page]. Borrows both.
class BlockPages {
 public:
  BlockPages(const EnginePages& engine, std::span<const int32_t> ids, size_t blocks, size_t at)
      : engine_(engine), ids_(ids), blocks_(blocks), at_(at) {}

  std::span<const int32_t> of(uint32_t table) const;
  // Of the pages of the part's planes: bytes of those that there are.
  uint64_t bytes(const EnginePart& part) const;

 private:
  const EnginePages& engine_;
  const std::span<const int32_t> ids_;
  const size_t blocks_;
  const size_t at_;
};

// Where the bytes of a part's payload belong in the engine's memory, in the order of the payload; those of pages that there are not are left out.
std::vector<PayloadRange> RangesOf(const EnginePart& part, const BlockPages& block);

}  // namespace stem
