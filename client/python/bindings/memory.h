// Memory of Python's objects as bytes: anything with the buffer protocol, or DLPack in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nanobind/nanobind.h"
#include "nanobind/ndarray.h"
#include "proto/block_key.h"
#include "proto/conversation.h"

namespace stem::python {

// Borrows an object's memory for as long as it lives. Needs the GIL to make; any thread may drop it, with the GIL or without.
class HostBytes {
 public:
  // Throws TypeError for what has no such memory, is not contiguous, cannot be written, or lies on a device.
  HostBytes(nanobind::handle from, bool writable);
  ~HostBytes();
  HostBytes(HostBytes&& other) noexcept;
  HostBytes& operator=(HostBytes&&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  Py_buffer buffer_ = {};
  bool has_buffer_ = false;
  nanobind::ndarray<nanobind::ro, nanobind::c_contig> tensor_;
  std::span<std::byte> bytes_;
};

// Keys as Python has them: 16 bytes each, packed.
std::vector<BlockKey> KeysOf(const nanobind::bytes& packed);

// Empty = none. Raises ValueError for another length than 16.
std::optional<Probe> ProbeFrom(const nanobind::bytes& bytes);
// `outlook`: unknown, will_resume or ended; throws ValueError for others.
Conversation ConversationOf(uint64_t id, const std::string& outlook);
nanobind::bytes Packed(std::span<const BlockKey> keys);

// Token ids: a list, an array of integers, or anything else that iterates over them. Throws ValueError outside 0..2^32-1.
std::vector<uint32_t> TokensOf(nanobind::handle tokens);

// A flat array of bytes that Python sees through the buffer protocol and DLPack; `owner` keeps the memory.
nanobind::object ArrayOf(std::span<const std::byte> bytes, nanobind::handle owner, bool writable);

}  // namespace stem::python
