// The whole life of a prompt's KV in 60 lines: get what is held of its longest stem, compute and publish the rest.
//   stem-example unix:///run/stemcache/node.sock
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include "client/cache_client.h"

namespace {

constexpr uint64_t kBlockBytes = 64 << 10;

// Stands for the prefill of one block.
void Compute(uint32_t block, std::span<std::byte> kv) { std::memset(kv.data(), static_cast<int>(block), kv.size()); }

absl::Status Run(const char* node) {
  stem::CacheClient::Options options;
  options.node = node;
  options.client_name = "stem-example";
  options.space.model = "example/model";
  options.space.kv_dtype = "bf16";
  options.space.layout = "nhd";
  options.space.block_tokens = 16;
  options.space.parts = {stem::Part{.block_bytes = kBlockBytes}};
  STEM_ASSIGN(const auto client, stem::CacheClient::Connect(options, absl::Now() + absl::Seconds(5)));

  std::vector<uint32_t> prompt(100);  // token ids: six full blocks, and a tail that is not cached
  std::iota(prompt.begin(), prompt.end(), 1);
  STEM_ASSIGN(stem::ChainHasher hasher, client->NewHasher());
  STEM_ASSIGN(const std::vector<stem::BlockKey> keys, hasher.HashPrompt(/*salt=*/"", prompt, /*extras=*/{}));

  const absl::Time deadline = absl::Now() + absl::Milliseconds(200);
  std::vector<std::byte> kv(keys.size() * kBlockBytes);  // the engine's pages
  const auto block_of = [&](size_t block) { return std::span(kv).subspan(block * kBlockBytes, kBlockBytes); };
  std::vector<std::span<std::byte>> pages;
  for (size_t block = 0; block < keys.size(); ++block) pages.push_back(block_of(block));
  // In one; an engine that must know first what it will get takes Acquire, Load and Release. Whatever fails is computed.
  const uint32_t loaded = client->Get(keys, {}, pages, deadline).blocks_loaded;

  for (uint32_t block = loaded; block < keys.size(); ++block) Compute(block, block_of(block));

  stem::ReserveOptions publish;
  if (loaded > 0) publish.parent = keys[loaded - 1];
  uint32_t committed = 0;
  if (loaded < keys.size()) {
    STEM_ASSIGN(stem::Reservation reservation,
                client->Reserve(std::span(keys).subspan(loaded), publish, absl::Now() + absl::Seconds(1)));
    for (const stem::WantedPayload& wanted : reservation.wanted()) {
      std::memcpy(wanted.staging.data(), block_of(loaded + wanted.block).data(), wanted.staging.size());
    }
    STEM_ASSIGN(const stem::CommitResult result,
                client->Commit(std::move(reservation), absl::Now() + absl::Seconds(1)));
    committed = result.committed;
  }
  std::printf("%zu blocks: %u loaded, %zu computed, %u published\n", keys.size(), loaded, keys.size() - loaded,
              committed);
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "usage: stem-example unix:///path/node.sock\n"), 2;
  const absl::Status status = Run(argv[1]);
  if (!status.ok()) std::fprintf(stderr, "stem-example: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
