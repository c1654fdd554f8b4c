#include "proto/namespace_spec.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace stem {
namespace {

constexpr absl::string_view kFingerprintTag = "stemcache/v1/namespace";
constexpr absl::string_view kSpillEncodingTag = "spill_encoding";

// Appends values in the canonical encoding of proto/FORMAT.md.
class Encoder {
 public:
  void U32(uint32_t value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value)); }
  void U64(uint64_t value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value)); }
  void Text(absl::string_view text) {
    U32(static_cast<uint32_t>(text.size()));
    bytes_.append(text.data(), text.size());
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

void Encode(const Part& part, Encoder& out) {
  out.U32(part.id);
  out.U32(static_cast<uint32_t>(part.group));
  out.U32(part.window_tokens);
  out.U32(part.layer_first);
  out.U32(part.layer_count);
  out.U32(part.head_first);
  out.U32(part.head_count);
  out.U64(part.block_bytes);
}

std::string Describe(const std::vector<Part>& parts) {
  return absl::StrJoin(parts, "+", [](std::string* out, const Part& part) {
    absl::StrAppend(out, part.id, ":", part.block_bytes, "B");
  });
}

}  // namespace

absl::StatusOr<SpillEncoding> ParseSpillEncoding(absl::string_view name) {
  if (name.empty()) return SpillEncoding::kExact;
  for (uint32_t i = 0; i < kSpillEncodings; ++i) {
    if (name == kSpillEncodingNames[i]) return static_cast<SpillEncoding>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("spill_encoding is '", name, "'; it must be ", absl::StrJoin(kSpillEncodingNames, ", ")));
}

uint32_t WindowBlocks(const Part& part, uint32_t block_tokens) {
  if (part.group == GroupKind::kFull) return 0;
  return part.group == GroupKind::kState ? 1 : part.window_tokens / block_tokens + (part.window_tokens % block_tokens != 0 ? 1 : 0);
}

std::vector<uint32_t> WindowBlocksOf(const NamespaceSpec& spec, std::span<const uint32_t> parts) {
  std::vector<uint32_t> windows;
  if (!spec.windowed()) return windows;
  for (const uint32_t part : parts) windows.push_back(WindowBlocks(*spec.part(part), spec.block_tokens));
  return windows;
}

bool NamespaceSpec::windowed() const {
  return std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.group != GroupKind::kFull; });
}

uint64_t NamespaceSpec::block_bytes_max() const {
  uint64_t bytes_max = 0;
  for (const Part& each : parts) bytes_max = std::max(bytes_max, each.block_bytes);
  return bytes_max;
}

const Part* NamespaceSpec::part(uint32_t id) const {
  for (const Part& each : parts) {
    if (each.id == id) return &each;
  }
  return nullptr;
}

NamespaceFingerprint FingerprintOf(const NamespaceSpec& spec, absl::string_view trust_group) {
  Encoder out;
  out.Text(kFingerprintTag);
  out.Text(trust_group);
  for (absl::string_view text : {absl::string_view(spec.model), absl::string_view(spec.revision),
                                absl::string_view(spec.weights_digest), absl::string_view(spec.kv_dtype),
                                absl::string_view(spec.scale_scheme), absl::string_view(spec.layout),
                                absl::string_view(spec.instruction_set)}) {
    out.Text(text);
  }
  out.U32(spec.block_tokens);
  out.U32(static_cast<uint32_t>(spec.hash_scheme));
  out.U32(static_cast<uint32_t>(spec.parts.size()));
  for (const Part& part : spec.parts) Encode(part, out);
  if (spec.spill_encoding != SpillEncoding::kExact) {  // exact namespaces keep the name that they had before there was another
    out.Text(kSpillEncodingTag);
    out.Text(SpillEncodingName(spec.spill_encoding));
  }

  uint8_t digest[32];
  EVP_Digest(out.bytes().data(), out.bytes().size(), digest, nullptr, EVP_sha256(), nullptr);
  NamespaceFingerprint fingerprint;
  std::memcpy(&fingerprint, digest, sizeof(fingerprint));
  return fingerprint;
}

Root RootOf(std::span<const uint8_t> cluster_secret, absl::string_view trust_group,
            const NamespaceFingerprint& fingerprint) {
  Encoder message;
  message.Text(trust_group);
  const std::string bytes = absl::StrCat(message.bytes(), fingerprint.bytes());
  Root root;
  unsigned int size = 0;
  HMAC(EVP_sha256(), cluster_secret.data(), static_cast<int>(cluster_secret.size()),
       reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), root.data(), &size);
  return root;
}

NamespaceFingerprint EngineCacheOf(const NamespaceFingerprint& fingerprint) {
  Encoder message;
  message.Text("stemcache/v1/engine cache");
  const std::string bytes = absl::StrCat(message.bytes(), fingerprint.bytes());
  uint8_t digest[32];
  EVP_Digest(bytes.data(), bytes.size(), digest, nullptr, EVP_sha256(), nullptr);
  NamespaceFingerprint space;
  std::memcpy(&space, digest, sizeof(space));
  return space;
}

std::vector<FieldDifference> DifferencesOf(const NamespaceSpec& a, const NamespaceSpec& b) {
  std::vector<FieldDifference> differences;
  const auto compare = [&](absl::string_view field, const auto& left, const auto& right) {
    if (left != right) differences.push_back({std::string(field), absl::StrCat(left), absl::StrCat(right)});
  };
  compare("model", a.model, b.model);
  compare("revision", a.revision, b.revision);
  compare("weights_digest", a.weights_digest, b.weights_digest);
  compare("kv_dtype", a.kv_dtype, b.kv_dtype);
  compare("scale_scheme", a.scale_scheme, b.scale_scheme);
  compare("layout", a.layout, b.layout);
  compare("instruction_set", a.instruction_set, b.instruction_set);
  compare("block_tokens", a.block_tokens, b.block_tokens);
  compare("hash_scheme", static_cast<uint32_t>(a.hash_scheme), static_cast<uint32_t>(b.hash_scheme));
  if (a.parts != b.parts) differences.push_back({"parts", Describe(a.parts), Describe(b.parts)});
  compare("spill_encoding", SpillEncodingName(a.spill_encoding), SpillEncodingName(b.spill_encoding));
  compare("tokenizer_digest", a.tokenizer_digest, b.tokenizer_digest);
  compare("chat_template_digest", a.chat_template_digest, b.chat_template_digest);
  return differences;
}

std::vector<std::string> DifferingFields(const NamespaceSpec& a, const NamespaceSpec& b) {
  std::vector<std::string> fields;
  for (const FieldDifference& each : DifferencesOf(a, b)) fields.push_back(absl::StrCat(each.field, " (", each.a, ", ", each.b, ")"));
  return fields;
}

}  // namespace stem
