// Chains of keys and their publication through a real client: what tests of whole clusters begin with.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/clock.h"
#include "client/cache_client.h"

namespace stem::testing {

// A deadline that only a hang misses.
inline absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

// The keys of `blocks` blocks of 16 tokens that count up from first_token.
inline std::vector<BlockKey> ChainOf(const CacheClient& client, uint32_t blocks, uint32_t first_token = 1) {
  std::vector<uint32_t> tokens(16 * blocks);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = first_token + static_cast<uint32_t>(i);
  ChainHasher hasher = *client.NewHasher();
  std::vector<BlockKey> keys;
  EXPECT_TRUE(hasher.AppendTokens(tokens, keys).ok());
  return keys;
}

// Every byte of a payload says which block it is of.
inline void FillWithPosition(const WantedPayload& wanted) {
  std::fill(wanted.staging.begin(), wanted.staging.end(), static_cast<std::byte>(wanted.position));
}

// Publishes what the node wants of the chain, each payload written by `fill`; returns how many were committed.
template <typename Fill>
uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys, Fill fill, const ReserveOptions& options = {}) {
  absl::StatusOr<Reservation> reservation = client.Reserve(keys, options, Soon());
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  if (!reservation.ok() || reservation->wanted().empty()) return 0;
  for (const WantedPayload& wanted : reservation->wanted()) fill(wanted);
  const absl::StatusOr<CommitResult> result = client.Commit(*std::move(reservation), Soon());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->committed : 0;
}

}  // namespace stem::testing
