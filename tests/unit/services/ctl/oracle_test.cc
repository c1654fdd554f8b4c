#include "services/ctl/oracle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>
#include <openssl/sha.h>

namespace stem {
namespace {

constexpr size_t kPayloadBytes = 65536;

PrefixDigest DigestOf(std::initializer_list<uint64_t> hash_ids, uint64_t space = 7, size_t block_tokens = 16) {
  PrefixHasher hasher;
  hasher.Reset(NamespaceFingerprint{{space, space}});
  std::vector<uint32_t> tokens(block_tokens);
  PrefixDigest digest{};
  for (const uint64_t id : hash_ids) {
    TokensOf(id, tokens);
    digest = hasher.Extend(tokens);
  }
  return digest;
}

std::vector<std::byte> Payload(const PrefixDigest& prefix, Publication publication, size_t bytes = kPayloadBytes) {
  std::vector<std::byte> payload(bytes);
  FillPayload(prefix, publication, payload);
  return payload;
}

TEST(PrefixHasherTest, IsTheShaOfNamespaceAndTokens) {
  std::vector<uint32_t> tokens(32);
  TokensOf(1, std::span(tokens).first(16));
  TokensOf(2, std::span(tokens).last(16));
  std::vector<uint8_t> bytes(16 + tokens.size() * 4);
  const NamespaceFingerprint space{{7, 7}};
  std::memcpy(bytes.data(), &space, 16);
  std::memcpy(bytes.data() + 16, tokens.data(), tokens.size() * 4);
  PrefixDigest expected;
  SHA256(bytes.data(), bytes.size(), reinterpret_cast<uint8_t*>(expected.data()));
  EXPECT_EQ(DigestOf({1, 2}), expected);
}

TEST(PrefixHasherTest, PrefixAndNamespaceBothEnter) {
  EXPECT_NE(DigestOf({1, 2}), DigestOf({3, 2}));
  EXPECT_NE(DigestOf({1, 2}), DigestOf({1, 2}, 8));
}

TEST(PrefixHasherTest, ResetForgetsTheLastPrefix) {
  PrefixHasher hasher;
  std::vector<uint32_t> tokens(16);
  TokensOf(1, tokens);
  hasher.Reset({{7, 7}});
  const PrefixDigest first = hasher.Extend(tokens);
  EXPECT_NE(hasher.Extend(tokens), first);
  hasher.Reset({{7, 7}});
  EXPECT_EQ(hasher.Extend(tokens), first);
}

TEST(TokensOfTest, DifferentIdsDifferEvenInOneTokenBlocks) {
  for (const size_t block_tokens : {1, 2, 16}) {
    std::vector<uint32_t> a(block_tokens), b(block_tokens);
    TokensOf(41, a);
    TokensOf(42, b);
    EXPECT_NE(a, b);
    TokensOf(41, b);
    EXPECT_EQ(a, b);
  }
}

TEST(OracleTest, WhatWasFilledChecks) {
  const PrefixDigest prefix = DigestOf({1, 2});
  for (const size_t bytes :
       {size_t{64}, size_t{65}, size_t{71}, size_t{527}, size_t{528}, size_t{4096}, kPayloadBytes}) {
    Publication who;
    EXPECT_FALSE(CheckPayload(prefix, Payload(prefix, {5, 9}, bytes), &who)) << bytes;
    EXPECT_EQ(who, (Publication{5, 9}));
  }
}

TEST(OracleTest, EveryFlippedBitIsSeenAtItsOffset) {
  const PrefixDigest prefix = DigestOf({1, 2});
  const size_t bytes = 1031;
  for (size_t offset = 0; offset < bytes; ++offset) {
    auto payload = Payload(prefix, {5, 9}, bytes);
    payload[offset] ^= std::byte{1};
    const auto mismatch = CheckPayload(prefix, payload);
    ASSERT_TRUE(mismatch) << offset;
    if (offset < 16) {
      EXPECT_GE(mismatch->offset, 16u);  // a head that lies shows in the bytes that it cannot have written
    } else {
      EXPECT_EQ(mismatch->offset, offset);
      EXPECT_EQ(mismatch->seen, mismatch->expected ^ 1);
    }
  }
}

TEST(OracleTest, SwappedSlotsAreSeen) {
  const PrefixDigest a = DigestOf({1, 2}), b = DigestOf({1, 3});
  EXPECT_TRUE(CheckPayload(a, Payload(b, {5, 9})));
  EXPECT_TRUE(CheckPayload(b, Payload(a, {5, 9})));
}

TEST(OracleTest, MixtureOfTwoPublishersIsSeenWhereItBegins) {
  const PrefixDigest prefix = DigestOf({1});
  const auto mine = Payload(prefix, {5, 9}), theirs = Payload(prefix, {6, 9}), later = Payload(prefix, {5, 10});
  for (const auto& other : {theirs, later}) {
    for (const size_t cut : {size_t{16}, size_t{4096}, kPayloadBytes - 8}) {
      auto torn = mine;
      std::copy(other.begin() + static_cast<std::ptrdiff_t>(cut), other.end(),
                torn.begin() + static_cast<std::ptrdiff_t>(cut));
      const auto mismatch = CheckPayload(prefix, torn);
      ASSERT_TRUE(mismatch);
      EXPECT_GE(mismatch->offset, cut);
      EXPECT_LT(mismatch->offset, cut + 8);
      EXPECT_NE(mismatch->ToString().find("offset"), std::string::npos);
    }
  }
}

TEST(OracleTest, ChunksThatChangedPlacesInsideABlockAreSeen) {
  const PrefixDigest prefix = DigestOf({1});
  auto payload = Payload(prefix, {5, 9});
  std::swap_ranges(payload.begin() + 4096, payload.begin() + 8192, payload.begin() + 8192);
  const auto mismatch = CheckPayload(prefix, payload);
  ASSERT_TRUE(mismatch);
  EXPECT_GE(mismatch->offset, 4096u);
  EXPECT_LT(mismatch->offset, 4104u);
}

TEST(OracleTest, UnwrittenMemoryIsSeen) {
  const std::vector<std::byte> zeros(kPayloadBytes);
  EXPECT_TRUE(CheckPayload(DigestOf({1}), zeros));
}

}  // namespace
}  // namespace stem
