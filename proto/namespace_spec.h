// A namespace: everything about the model's side that must be equal for KV to be reusable, who owns it, and
// the two values derived from that: its fingerprint and its root.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/block_key.h"

namespace stem {

enum class HashScheme : uint32_t { kXxh3 = 1, kSha256 = 2, kExternal = 3 };
enum class GroupKind : uint32_t { kFull = 1, kWindow = 2, kState = 3 };
// How blocks lie on an SSD. Anything but kExact is lossy: proto/spill_scale.h says what a namespace must be like for it.
enum class SpillEncoding : uint32_t { kExact = 0, kFp8E4m3 = 1, kInt8 = 2 };

inline constexpr const char* kSpillEncodingNames[] = {"exact", "fp8_e4m3", "int8"};
inline constexpr uint32_t kSpillEncodings = sizeof(kSpillEncodingNames) / sizeof(kSpillEncodingNames[0]);

constexpr const char* SpillEncodingName(SpillEncoding encoding) { return kSpillEncodingNames[static_cast<uint32_t>(encoding)]; }
// Empty = exact. Errors: InvalidArgument (no such name).
absl::StatusOr<SpillEncoding> ParseSpillEncoding(absl::string_view name);

// One piece of a block that is published and read apart. Meaning and units of each field: types.proto.
struct Part {
  uint32_t id = 0;
  GroupKind group = GroupKind::kFull;
  uint32_t window_tokens = 0;
  uint32_t layer_first = 0;
  uint32_t layer_count = 1;
  uint32_t head_first = 0;
  uint32_t head_count = 1;
  uint64_t block_bytes = 0;

  friend bool operator==(const Part&, const Part&) = default;
};

// Of how many blocks at a stem's end a reader needs `part`: 0 = of every block (full attention), 1 = of the last alone (recurrent state), n = of
// the last n, which cover its window.
uint32_t WindowBlocks(const Part& part, uint32_t block_tokens);

// Whether a reader of a stem of `stem_blocks` needs a part of `block`, which lies in the stem. `window_blocks`: as above.
inline bool IsNeeded(uint32_t window_blocks, uint32_t block, uint32_t stem_blocks) {
  return window_blocks == 0 || stem_blocks - block <= window_blocks;
}

// Meaning and limits of each field: types.proto; proto/validate.h enforces them.
struct NamespaceSpec {
  std::string model;
  std::string revision;
  std::string weights_digest;
  std::string kv_dtype;
  std::string scale_scheme;
  std::string layout;
  std::string instruction_set;
  uint32_t block_tokens = 0;
  HashScheme hash_scheme = HashScheme::kXxh3;
  std::vector<Part> parts;
  std::string tokenizer_digest;
  std::string chat_template_digest;
  SpillEncoding spill_encoding = SpillEncoding::kExact;

  // Bytes of the largest part: what a slot must hold.
  uint64_t block_bytes_max() const;
  // The part with this id, or null.
  const Part* part(uint32_t id) const;
  // Some part is of a window or a state: not every block of a stem is read whole.
  bool windowed() const;

  friend bool operator==(const NamespaceSpec&, const NamespaceSpec&) = default;
};

// WindowBlocks of these parts of `spec`, by index; empty when it has full attention alone.
std::vector<uint32_t> WindowBlocksOf(const NamespaceSpec& spec, std::span<const uint32_t> parts);

using Root = std::array<uint8_t, 32>;

// Names `spec` as owned by `trust_group` (a tenant or a declared shared group). Source: proto/FORMAT.md, "Namespaces".
NamespaceFingerprint FingerprintOf(const NamespaceSpec& spec, absl::string_view trust_group);

// The namespace's hashing root. `cluster_secret`: 32 bytes or more, the same on every node.
Root RootOf(std::span<const uint8_t> cluster_secret, absl::string_view trust_group,
            const NamespaceFingerprint& fingerprint);

// The space in which a node announces what its engine keeps in its own cache: never fetched from, so apart from `fingerprint`, under
// the same keys. Source: proto/FORMAT.md, "Namespaces".
NamespaceFingerprint EngineCacheOf(const NamespaceFingerprint& fingerprint);

// A field in which two specs differ.
struct FieldDifference {
  std::string field;
  std::string a, b;  // its values
};
std::vector<FieldDifference> DifferencesOf(const NamespaceSpec& a, const NamespaceSpec& b);
// The same as texts, e.g. "kv_dtype (bf16, fp8_e4m3)"; empty when equal. For law 11.
std::vector<std::string> DifferingFields(const NamespaceSpec& a, const NamespaceSpec& b);

}  // namespace stem
