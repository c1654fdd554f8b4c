#include "storage/spill/payload_pieces.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace stem {
namespace {

// Bytes of `payload`, from its start, that a disk can use where they are.
size_t DirectBytes(std::span<const std::byte> payload) {
  if (reinterpret_cast<uintptr_t>(payload.data()) % kSpillPageBytes != 0) return 0;
  return payload.size() / kSpillPageBytes * kSpillPageBytes;
}

size_t RestBytes(std::span<const std::byte> payload) {
  return SpillPages(payload.size()) * kSpillPageBytes - DirectBytes(payload);
}

// Pages [first, first + pages) of what starts with `direct` and goes on with `rest`.
void AppendPieces(std::span<std::byte> direct, std::span<std::byte> rest, uint64_t first, uint64_t pages,
                  std::vector<iovec>& pieces) {
  uint64_t at = first * kSpillPageBytes;
  const uint64_t end = at + pages * kSpillPageBytes;
  if (at < direct.size()) {
    const uint64_t bytes = std::min<uint64_t>(end, direct.size()) - at;
    pieces.push_back({direct.data() + at, bytes});
    at += bytes;
  }
  if (at < end) pieces.push_back({rest.data() + (at - direct.size()), end - at});
}

}  // namespace

PagesToFill::PagesToFill(std::span<std::byte> payload)
    : payload_(payload), direct_bytes_(DirectBytes(payload)), rest_(RestBytes(payload)) {}

void PagesToFill::Append(uint64_t first, uint64_t pages, std::vector<iovec>& pieces) const {
  AppendPieces(payload_.first(direct_bytes_), rest_.bytes(), first, pages, pieces);
}

void PagesToFill::Finish() const {
  const std::span<std::byte> rest = payload_.subspan(direct_bytes_);
  if (!rest.empty()) std::memcpy(rest.data(), rest_.bytes().data(), rest.size());
}

PagesToWrite::PagesToWrite(std::span<const std::byte> payload)
    : payload_(payload), direct_bytes_(DirectBytes(payload)), rest_(RestBytes(payload)) {
  const std::span<const std::byte> rest = payload_.subspan(direct_bytes_);
  if (rest.empty()) return;
  std::memcpy(rest_.bytes().data(), rest.data(), rest.size());
  std::memset(rest_.bytes().data() + rest.size(), 0, rest_.bytes().size() - rest.size());
}

void PagesToWrite::Append(uint64_t first, uint64_t pages, std::vector<iovec>& pieces) const {
  // iovec serves both ways; nothing is written through it here.
  const std::span<std::byte> direct(const_cast<std::byte*>(payload_.data()), direct_bytes_);
  AppendPieces(direct, rest_.bytes(), first, pages, pieces);
}

}  // namespace stem
