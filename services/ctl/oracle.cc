#include "services/ctl/oracle.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr size_t kWordBytes = sizeof(uint64_t);
constexpr size_t kHeadBytes = sizeof(Publication);
static_assert(kHeadBytes == 2 * kWordBytes);

// The wyhash mixer: 64 x 64 -> 128 bits, folded.
uint64_t Mix(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr uint64_t kStep = 0xA0761D6478BD642FULL;
constexpr uint64_t kSalt = 0xE7037ED1A0B428DBULL;

// Words of the stream by their index: independent of one another, so the processor overlaps their multiplications.
class PayloadStream {
 public:
  PayloadStream(const PrefixDigest& prefix, const Publication& publication) {
    const uint64_t who = Mix(publication.publisher ^ kStep, publication.number ^ kSalt);
    start_ = Mix(prefix[0] ^ who, prefix[1] ^ publication.number ^ kSalt);
    other_ = Mix(prefix[2] ^ who ^ kStep, prefix[3] ^ publication.publisher ^ kSalt);
  }

  uint64_t Word(size_t index) const {
    const uint64_t state = start_ + index * kStep;
    return Mix(state, state ^ other_ ^ kSalt);
  }

 private:
  uint64_t start_;
  uint64_t other_;
};

uint64_t LoadWord(const std::byte* from) {
  uint64_t word;
  std::memcpy(&word, from, kWordBytes);
  return word;
}

// The mismatch in the `count` bytes at `offset`, the first of which is the first byte of stream word `expected`.
std::optional<PayloadMismatch> DifferenceIn(std::span<const std::byte> payload, size_t offset, size_t count,
                                            uint64_t expected, const Publication& head) {
  for (size_t i = 0; i < count; ++i) {
    const auto want = static_cast<uint8_t>(expected >> (8 * i));
    const auto seen = std::to_integer<uint8_t>(payload[offset + i]);
    if (want != seen) return PayloadMismatch{offset + i, want, seen, head};
  }
  return std::nullopt;
}

}  // namespace

PrefixHasher::PrefixHasher()
    : sha256_(EVP_MD_fetch(nullptr, "SHA256", nullptr)), running_(EVP_MD_CTX_new()), copy_(EVP_MD_CTX_new()) {
  STEM_CHECK(sha256_ != nullptr && running_ != nullptr && copy_ != nullptr);
  STEM_CHECK(EVP_DigestInit_ex2(running_.get(), sha256_.get(), nullptr) == 1);
}

void PrefixHasher::Reset(const NamespaceFingerprint& space) {
  STEM_CHECK(EVP_DigestInit_ex2(running_.get(), sha256_.get(), nullptr) == 1);
  STEM_CHECK(EVP_DigestUpdate(running_.get(), space.bytes().data(), space.bytes().size()) == 1);
}

PrefixDigest PrefixHasher::Extend(std::span<const uint32_t> tokens) {
  PrefixDigest digest;
  unsigned int digest_bytes = 0;
  STEM_CHECK(EVP_DigestUpdate(running_.get(), tokens.data(), tokens.size_bytes()) == 1);
  STEM_CHECK(EVP_MD_CTX_copy_ex(copy_.get(), running_.get()) == 1);
  STEM_CHECK(EVP_DigestFinal_ex(copy_.get(), reinterpret_cast<unsigned char*>(digest.data()), &digest_bytes) == 1);
  STEM_CHECK(digest_bytes == sizeof(digest));
  return digest;
}

void FillPayload(const PrefixDigest& prefix, const Publication& publication, std::span<std::byte> payload) {
  STEM_CHECK(payload.size() >= kOraclePayloadBytesMin);
  const PayloadStream stream(prefix, publication);
  std::memcpy(payload.data(), &publication, kHeadBytes);
  std::byte* const body = payload.data() + kHeadBytes;
  const size_t words = (payload.size() - kHeadBytes) / kWordBytes;
  for (size_t i = 0; i < words; ++i) {
    const uint64_t word = stream.Word(i);
    std::memcpy(body + i * kWordBytes, &word, kWordBytes);
  }
  const uint64_t last = stream.Word(words);
  std::memcpy(body + words * kWordBytes, &last, (payload.size() - kHeadBytes) % kWordBytes);
}

std::optional<PayloadMismatch> CheckPayload(const PrefixDigest& prefix, std::span<const std::byte> payload,
                                            Publication* publication) {
  STEM_CHECK(payload.size() >= kOraclePayloadBytesMin);
  Publication head;
  std::memcpy(&head, payload.data(), kHeadBytes);
  if (publication != nullptr) *publication = head;
  const PayloadStream stream(prefix, head);
  const std::byte* const body = payload.data() + kHeadBytes;
  const size_t words = (payload.size() - kHeadBytes) / kWordBytes;

  // Differences are collected over a stride and located afterwards: the common case has no branch per word.
  constexpr size_t kStride = 64;
  for (size_t first = 0; first < words; first += kStride) {
    const size_t end = std::min(first + kStride, words);
    uint64_t difference = 0;
    for (size_t i = first; i < end; ++i) difference |= stream.Word(i) ^ LoadWord(body + i * kWordBytes);
    if (difference == 0) continue;
    for (size_t i = first; i < end; ++i) {
      const auto mismatch = DifferenceIn(payload, kHeadBytes + i * kWordBytes, kWordBytes, stream.Word(i), head);
      if (mismatch) return mismatch;
    }
  }
  const size_t tail_bytes = (payload.size() - kHeadBytes) % kWordBytes;
  return DifferenceIn(payload, kHeadBytes + words * kWordBytes, tail_bytes, stream.Word(words), head);
}

std::string PayloadMismatch::ToString() const {
  return absl::StrFormat("offset %d: saw 0x%02x, must be 0x%02x if publisher %016x wrote it as its publish %d", offset,
                         seen, expected, head.publisher, head.number);
}

void TokensOf(uint64_t hash_id, std::span<uint32_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i == 0) {
      tokens[i] = static_cast<uint32_t>(hash_id);
    } else if (i == 1) {
      tokens[i] = static_cast<uint32_t>(hash_id >> 32);
    } else {
      tokens[i] = static_cast<uint32_t>(Mix(hash_id ^ kStep, i * kSalt) & 0x1FFFF);  // a vocabulary of 131,072
    }
  }
}

}  // namespace stem
