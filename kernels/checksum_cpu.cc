#include "kernels/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kernels/checksum_isa.h"
#include "proto/check.h"

namespace stem {
namespace checksum_internal {

size_t AvailableIsas(const ChecksumIsa* isas[kIsasMax]) {
  size_t count = 0;
  isas[count++] = &kBaseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) isas[count++] = &kAvx2;
  // VBMI2 is not used: it tells the CPUs (Ice Lake, Zen 4 and later) that do not slow down for 512-bit code.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi2")) {
    isas[count++] = &kAvx512;
  }
#endif
  return count;
}

const ChecksumIsa& FastestIsa() {
  static const ChecksumIsa* const isa = [] {
    const ChecksumIsa* isas[kIsasMax];
    return isas[AvailableIsas(isas) - 1];
  }();
  return *isa;
}

}  // namespace checksum_internal

using checksum_internal::FastestIsa;

uint64_t ChunkHash(std::span<const std::byte> chunk) { return FastestIsa().hash(chunk.data(), chunk.size()); }

uint64_t DigestOfChunks(const BlockName& name, uint64_t length, std::span<const uint64_t> chunk_hashes) {
  STEM_CHECK(chunk_hashes.size() == ChunkCount(length));
  struct {
    BlockName name;
    uint64_t length;
  } const head = {name, length};
  static_assert(sizeof(head) == 40);
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  XXH3_64bits_update(&state, &head, sizeof(head));
  XXH3_64bits_update(&state, chunk_hashes.data(), chunk_hashes.size_bytes());
  return XXH3_64bits_digest(&state);
}

uint64_t Digest(const BlockName& name, std::span<const std::byte> payload, std::span<uint64_t> chunk_hashes) {
  STEM_CHECK(chunk_hashes.size() == ChunkCount(payload.size()));
  FastestIsa().hash_chunks(payload.data(), payload.size(), chunk_hashes.data());
  return DigestOfChunks(name, payload.size(), chunk_hashes);
}

void CopyChunks(std::span<std::byte> dst, std::span<const std::byte> src, std::span<uint64_t> chunk_hashes) {
  STEM_CHECK(dst.size() == src.size() && chunk_hashes.size() == ChunkCount(src.size()));
  FastestIsa().copy_chunks(dst.data(), src.data(), src.size(), chunk_hashes.data());
}

uint64_t CopyAndDigest(std::span<std::byte> dst, std::span<const std::byte> src, const BlockName& name,
                       std::span<uint64_t> chunk_hashes) {
  CopyChunks(dst, src, chunk_hashes);
  return DigestOfChunks(name, src.size(), chunk_hashes);
}

void CopyPayload(std::span<std::byte> dst, std::span<const std::byte> src) {
  STEM_CHECK(dst.size() == src.size());
  FastestIsa().copy(dst.data(), src.data(), src.size());
}

}  // namespace stem
