// Blocks per second of chain hashing on one core, blocks of 16 tokens, and as `of_limit` the share of the bare hash's own
// rate for messages of that size (parent key and tokens, 80 bytes), measured first in the same run: XXH3-128 with a
// secret, and OpenSSL's SHA-256 with the digest fetched once.
#include <benchmark/benchmark.h>
#include <openssl/evp.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "client/chain.h"

namespace {

constexpr uint32_t kBlockTokens = 16;
constexpr size_t kBlocks = 4096;  // of a prompt of 65536 tokens
constexpr size_t kMessageBytes = 16 + 4 * kBlockTokens;

// Hashes per second of `hash`, the best of five rounds; each reads what the one before wrote, as in a chain.
template <typename Hash>
double Rate(Hash hash) {
  constexpr int kHashes = 200'000;
  double best = 0;
  unsigned char message[kMessageBytes] = {};
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kHashes; ++i) hash(message);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, kHashes / took.count());
  }
  benchmark::DoNotOptimize(message);
  return best;
}

double Xxh3Limit() {
  unsigned char secret[192];
  const char seed[] = "any secret will do";
  if (XXH3_generateSecret(secret, sizeof(secret), seed, sizeof(seed)) != XXH_OK) std::abort();
  return Rate([&](unsigned char* message) {
    const XXH128_hash_t hash = XXH3_128bits_withSecret(message, kMessageBytes, secret, sizeof(secret));
    std::memcpy(message, &hash, sizeof(hash));
  });
}

double Sha256Limit() {
  EVP_MD* const digest = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  if (digest == nullptr || context == nullptr) std::abort();
  const double rate = Rate([&](unsigned char* message) {
    unsigned char hash[32];
    if (EVP_DigestInit_ex2(context, digest, nullptr) != 1 || EVP_DigestUpdate(context, message, kMessageBytes) != 1 ||
        EVP_DigestFinal_ex(context, hash, nullptr) != 1) {
      std::abort();
    }
    std::memcpy(message, hash, 16);
  });
  EVP_MD_CTX_free(context);
  EVP_MD_free(digest);
  return rate;
}

void Chain(benchmark::State& state, stem::HashScheme scheme, double (*limit_of)()) {
  const double limit = limit_of();
  stem::ChainHasher hasher = *stem::ChainHasher::Create(scheme, {}, "", kBlockTokens);
  std::vector<uint32_t> tokens(kBlocks * kBlockTokens);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<uint32_t>(i * 2654435761U);
  std::vector<stem::BlockKey> keys;
  keys.reserve(kBlocks);
  for (auto _ : state) {
    keys.clear();
    if (!hasher.Restart("").ok() || !hasher.AppendTokens(tokens, keys).ok()) return state.SkipWithError("refused");
    benchmark::DoNotOptimize(keys.data());
  }
  const double blocks = static_cast<double>(state.iterations()) * kBlocks;
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kBlocks));
  state.counters["of_limit"] = benchmark::Counter(blocks / limit, benchmark::Counter::kIsRate);
  state.counters["limit_Mps"] = limit / 1e6;
}

BENCHMARK_CAPTURE(Chain, xxh3, stem::HashScheme::kXxh3, Xxh3Limit);
BENCHMARK_CAPTURE(Chain, sha256, stem::HashScheme::kSha256, Sha256Limit);

}  // namespace

BENCHMARK_MAIN();
