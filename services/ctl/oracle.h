// What every payload of a replay must be, byte for byte. A payload opens with its publisher's id and publish
// number (u64 LE each); the rest is a stream seeded by those two and by the SHA-256 of the namespace and the
// prefix's tokens, computed apart from the chain hash. So another block's bytes, bytes that moved inside a
// block, and a mixture of two publishers' copies are all seen.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <openssl/evp.h>

#include "proto/block_key.h"

namespace stem {

inline constexpr size_t kOraclePayloadBytesMin = 64;

// SHA-256 of a namespace and the tokens of one prefix.
using PrefixDigest = std::array<uint64_t, 4>;

// Who wrote a payload, and which of its writes it was.
struct Publication {
  uint64_t publisher = 0;
  uint64_t number = 0;

  friend bool operator==(const Publication&, const Publication&) = default;
};

// Digests of a growing prefix, one per token block. Not for two threads at once; never allocates after construction.
class PrefixHasher {
 public:
  PrefixHasher();

  // Starts an empty prefix in `space`.
  void Reset(const NamespaceFingerprint& space);
  // Appends one token block and returns the digest of everything since Reset.
  PrefixDigest Extend(std::span<const uint32_t> tokens);

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
    void operator()(EVP_MD* digest) const { EVP_MD_free(digest); }
  };
  std::unique_ptr<EVP_MD, Free> sha256_;
  std::unique_ptr<EVP_MD_CTX, Free> running_;
  std::unique_ptr<EVP_MD_CTX, Free> copy_;
};

// Writes the payload that `publication` of the prefix must have. `payload`: at least kOraclePayloadBytesMin bytes.
void FillPayload(const PrefixDigest& prefix, const Publication& publication, std::span<std::byte> payload);

// The first byte that is not what the publisher named in the payload's head wrote.
struct PayloadMismatch {
  uint64_t offset = 0;  // bytes from the payload's start
  uint8_t expected = 0;
  uint8_t seen = 0;
  Publication head;     // what the payload's first 16 bytes say

  std::string ToString() const;
};

// Compares every byte. Nothing when all are right; `publication` (may be null) receives who wrote them.
std::optional<PayloadMismatch> CheckPayload(const PrefixDigest& prefix, std::span<const std::byte> payload,
                                            Publication* publication = nullptr);

// The tokens that stand for a trace's block `hash_id`: equal ids, equal tokens; different ids differ (ids below
// 2^32, or blocks of two tokens and more). Fills all of `tokens`.
void TokensOf(uint64_t hash_id, std::span<uint32_t> tokens);

}  // namespace stem
