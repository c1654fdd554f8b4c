// The bytes of proto/FORMAT.md against vectors that were not computed by our code.
#include "tests/support/golden_vectors.h"

#include <gtest/gtest.h>

#include <array>
#include <span>
#include <vector>

#include "kernels/checksum.h"
#include "proto/block_key.h"
#include "proto/namespace_spec.h"
#include "proto/probe.h"

namespace stem {
namespace {

using testing::GoldenVectors;
using testing::NameFromHex;
using testing::Unhex;

NamespaceSpec SpecFrom(const nlohmann::json& json) {
  NamespaceSpec spec{.model = json.at("model"),
                     .revision = json.at("revision"),
                     .weights_digest = json.at("weights_digest"),
                     .kv_dtype = json.at("kv_dtype"),
                     .scale_scheme = json.at("scale_scheme"),
                     .layout = json.at("layout"),
                     .instruction_set = json.at("instruction_set"),
                     .block_tokens = json.at("block_tokens"),
                     .hash_scheme = static_cast<HashScheme>(json.at("hash_scheme").get<uint32_t>()),
                     .parts = {},
                     .tokenizer_digest = "not part of it",
                     .chat_template_digest = "nor this",
                     .spill_encoding = *ParseSpillEncoding(json.value("spill_encoding", ""))};
  for (const auto& part : json.at("parts")) {
    spec.parts.push_back(Part{.id = part.at("id"),
                              .group = static_cast<GroupKind>(part.at("group").get<uint32_t>()),
                              .window_tokens = part.at("window_tokens"),
                              .layer_first = part.at("layer_first"),
                              .layer_count = part.at("layer_count"),
                              .head_first = part.at("head_first"),
                              .head_count = part.at("head_count"),
                              .block_bytes = part.at("block_bytes")});
  }
  return spec;
}

TEST(GoldenVectorsTest, NamespacesAndRoots) {
  for (const auto& vector : GoldenVectors("namespaces")) {
    SCOPED_TRACE(vector.at("name").get<std::string>());
    const std::string trust_group = vector.at("trust_group");
    const NamespaceFingerprint space = FingerprintOf(SpecFrom(vector.at("spec")), trust_group);
    EXPECT_EQ(space.ToHex(), vector.at("fingerprint"));
    const std::string secret = Unhex(vector.at("cluster_secret"));
    const Root root = RootOf({reinterpret_cast<const uint8_t*>(secret.data()), secret.size()}, trust_group, space);
    EXPECT_EQ(root, NameFromHex<Root>(vector.at("root")));
  }
}

TEST(GoldenVectorsTest, Probes) {
  for (const auto& vector : GoldenVectors("probes")) {
    const std::string secret = Unhex(vector.at("cluster_secret"));
    const ProbeKey key = ProbeKeyOf({reinterpret_cast<const uint8_t*>(secret.data()), secret.size()},
                                    vector.at("trust_group").get<std::string>());
    EXPECT_EQ(key, NameFromHex<ProbeKey>(vector.at("probe_key")));
    const auto tokens = vector.at("tokens").get<std::array<uint32_t, kProbeTokens>>();
    EXPECT_EQ(ProbeOf(key, tokens, Unhex(vector.at("salt"))).ToHex(), vector.at("probe"));
  }
}

TEST(GoldenVectorsTest, PartKeysAndIndexFingerprints) {
  for (const auto& vector : GoldenVectors("names")) {
    const uint32_t part = vector.at("part");
    SCOPED_TRACE(part);
    const BlockKey key = PartKey(NameFromHex<BlockKey>(vector.at("key")), part);
    EXPECT_EQ(key.ToHex(), vector.at("part_key"));
    EXPECT_EQ(IndexFingerprint({.space = NameFromHex<NamespaceFingerprint>(vector.at("space")), .key = key}),
              vector.at("index_fingerprint").get<uint64_t>());
  }
}

TEST(GoldenVectorsTest, PayloadDigests) {
  for (const auto& vector : GoldenVectors("digests")) {
    const size_t length = vector.at("length");
    SCOPED_TRACE(length);
    std::vector<std::byte> payload(length);
    for (size_t i = 0; i < length; ++i) payload[i] = static_cast<std::byte>(i * 131 + (i >> 8));
    const BlockName name{.space = NameFromHex<NamespaceFingerprint>(vector.at("space")),
                         .key = NameFromHex<BlockKey>(vector.at("key"))};
    std::vector<uint64_t> chunks(ChunkCount(length));
    EXPECT_EQ(Digest(name, payload, chunks), vector.at("digest").get<uint64_t>());
    EXPECT_EQ(chunks, vector.at("chunk_hashes").get<std::vector<uint64_t>>());
  }
}

}  // namespace
}  // namespace stem
