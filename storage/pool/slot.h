// The bytes of one slot, as the node writes them, its clients and peers read them, and proto/FORMAT.md fixes them:
//
//   [chunk hashes, u64 each, from the slot's start][... zero ...][SlotHeader][payload ...]
//   ^ slot                                                       ^ payload_offset - 128
//
// Header and payload touch, so that one transfer brings both. The node alone writes a slot; everyone else proves it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "proto/block_key.h"

namespace stem {

inline constexpr uint32_t kSlotMagic = 0x4D455453;  // "STEM"
inline constexpr uint32_t kSlotVersion = 1;
inline constexpr size_t kPageBytes = 4096;

struct SlotHeader {
  uint32_t magic = kSlotMagic;
  uint32_t version = kSlotVersion;
  BlockName name;           // of the payload: namespace and part key
  uint64_t generation = 0;  // changes with every use of the slot; never 0 in a slot that is Ready
  uint64_t length = 0;      // payload bytes
  uint64_t digest = 0;      // kernels/checksum.h
  uint64_t publisher = 0;   // session that published it, on the node where it was first committed
  uint8_t padding[56] = {};

  friend bool operator==(const SlotHeader&, const SlotHeader&) = default;
};
static_assert(sizeof(SlotHeader) == 128);

// Where things lie in every slot of one arena. All in bytes.
struct SlotGeometry {
  uint64_t payload_offset = 0;  // multiple of kPageBytes
  uint64_t slot_bytes = 0;      // from one slot to the next, multiple of kPageBytes

  // The geometry for payloads of at most `block_bytes_max`.
  static constexpr SlotGeometry For(uint64_t block_bytes_max, size_t chunk_bytes = kPageBytes) {
    const uint64_t chunks = (block_bytes_max + chunk_bytes - 1) / chunk_bytes;
    const uint64_t head = chunks * sizeof(uint64_t) + sizeof(SlotHeader);
    const uint64_t payload_offset = (head + kPageBytes - 1) / kPageBytes * kPageBytes;
    return {payload_offset, payload_offset + (block_bytes_max + kPageBytes - 1) / kPageBytes * kPageBytes};
  }

  constexpr uint64_t block_bytes_max() const { return slot_bytes - payload_offset; }
  constexpr uint64_t header_offset() const { return payload_offset - sizeof(SlotHeader); }

  friend bool operator==(const SlotGeometry&, const SlotGeometry&) = default;
};

// One slot's memory, `geometry.slot_bytes` long; borrows it. `Byte` is std::byte or const std::byte.
template <typename Byte>
class SlotView {
 public:
  SlotView(std::span<Byte> slot, const SlotGeometry& geometry) : slot_(slot), geometry_(geometry) {}

  // A copy: other processes may write a client's or peer's view of it meanwhile.
  SlotHeader header() const {
    SlotHeader header;
    std::memcpy(static_cast<void*>(&header), slot_.data() + geometry_.header_offset(), sizeof(header));
    return header;
  }
  void set_header(const SlotHeader& header) const
    requires(!std::is_const_v<Byte>)
  {
    std::memcpy(slot_.data() + geometry_.header_offset(), &header, sizeof(header));
  }
  std::span<Byte> payload(uint64_t length) const { return slot_.subspan(geometry_.payload_offset, length); }
  // Header and payload: what one transfer brings.
  std::span<Byte> proved_bytes(uint64_t length) const {
    return slot_.subspan(geometry_.header_offset(), sizeof(SlotHeader) + length);
  }
  auto chunk_hashes(size_t count) const {
    using Word = std::conditional_t<std::is_const_v<Byte>, const uint64_t, uint64_t>;
    return std::span<Word>(reinterpret_cast<Word*>(slot_.data()), count);
  }

 private:
  std::span<Byte> slot_;
  SlotGeometry geometry_;
};

}  // namespace stem
