#include "client/chain.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/validate.h"

namespace stem {
namespace {

constexpr size_t kSecretBytes = 192;
constexpr uint8_t kExternalTag = 0x45;

struct DeleteDigest {
  void operator()(EVP_MD* digest) const { EVP_MD_free(digest); }
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

void AppendU32(std::vector<uint8_t>& out, uint32_t value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}

void AppendBytes(std::vector<uint8_t>& out, absl::string_view bytes) {
  out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

struct ChainHasher::State {
  // Constant after Create.
  HashScheme scheme = HashScheme::kXxh3;
  Root root = {};
  uint32_t block_tokens = 0;
  std::optional<ProbeKey> probe_key;
  uint8_t secret[kSecretBytes] = {};             // xxh3 and external
  std::unique_ptr<EVP_MD, DeleteDigest> sha256;  // sha256: fetched once, four times faster than by name
  std::unique_ptr<EVP_MD_CTX, DeleteDigest> context;

  // The chain so far. `message` begins with the last key, then the tokens of the block that is being filled.
  BlockKey origin;
  BlockKey last;
  size_t blocks = 0;
  uint32_t tail_tokens = 0;
  std::vector<uint8_t> message;
  std::vector<uint8_t> extras;
  size_t extra_count = 0;
  std::string salt;
  std::array<uint32_t, kProbeTokens> first_tokens = {};
  size_t first_count = 0;
  bool probeless = false;  // its first tokens only stand for embeddings, or are not known

  size_t message_bytes() const { return sizeof(BlockKey) + size_t{block_tokens} * sizeof(uint32_t); }

  BlockKey Hash(std::span<const uint8_t> bytes) const {
    if (scheme != HashScheme::kSha256) {
      const XXH128_hash_t hash = XXH3_128bits_withSecret(bytes.data(), bytes.size(), secret, sizeof(secret));
      return BlockKey{{.low = hash.low64, .high = hash.high64}};
    }
    uint8_t digest[32];
    STEM_CHECK(EVP_DigestInit_ex2(context.get(), sha256.get(), nullptr) == 1);
    STEM_CHECK(EVP_DigestUpdate(context.get(), bytes.data(), bytes.size()) == 1);
    STEM_CHECK(EVP_DigestFinal_ex(context.get(), digest, nullptr) == 1);
    BlockKey key;
    std::memcpy(static_cast<void*>(&key), digest, sizeof(key));
    return key;
  }

  void Advance(const BlockKey& key) {
    last = key;
    ++blocks;
    tail_tokens = 0;
    extras.clear();
    extra_count = 0;
    message.resize(message_bytes());
    std::memcpy(message.data(), &last, sizeof(last));
  }

  void FinishBlock(std::vector<BlockKey>& keys) {
    message.insert(message.end(), extras.begin(), extras.end());
    Advance(Hash(message));
    keys.push_back(last);
  }
};

ChainHasher::ChainHasher(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChainHasher::ChainHasher(ChainHasher&&) noexcept = default;
ChainHasher& ChainHasher::operator=(ChainHasher&&) noexcept = default;
ChainHasher::~ChainHasher() = default;

absl::StatusOr<ChainHasher> ChainHasher::Create(HashScheme scheme, const Root& root, absl::string_view salt,
                                                uint32_t block_tokens, const std::optional<ProbeKey>& probe_key) {
  if (scheme != HashScheme::kXxh3 && scheme != HashScheme::kSha256 && scheme != HashScheme::kExternal) {
    return absl::InvalidArgumentError(absl::StrCat("hash scheme is ", static_cast<uint32_t>(scheme),
                                                   "; it must be xxh3 (1), sha256 (2) or external (3)"));
  }
  if (block_tokens == 0 || block_tokens > kBlockTokensMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_tokens is ", block_tokens, "; it must be 1 to ", kBlockTokensMax));
  }
  auto state = std::make_unique<State>();
  state->scheme = scheme;
  state->root = root;
  state->block_tokens = block_tokens;
  state->probe_key = probe_key;
  if (scheme == HashScheme::kSha256) {
    state->sha256.reset(EVP_MD_fetch(nullptr, "SHA256", nullptr));
    state->context.reset(EVP_MD_CTX_new());
    if (state->sha256 == nullptr || state->context == nullptr) {
      return absl::InternalError("OpenSSL has no SHA256; load its default provider");
    }
  } else {
    STEM_CHECK(XXH3_generateSecret(state->secret, sizeof(state->secret), root.data(), root.size()) == XXH_OK);
  }
  ChainHasher hasher(std::move(state));
  STEM_TRY(hasher.Restart(salt));
  return hasher;
}

absl::Status ChainHasher::Restart(absl::string_view salt) {
  if (salt.size() > kSaltBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the length of salt is ", salt.size(), "; it must be at most ", kSaltBytesMax, " bytes"));
  }
  State& state = *state_;
  state.message.assign(state.root.begin(), state.root.end());
  AppendBytes(state.message, salt);
  state.origin = state.Hash(state.message);
  state.Advance(state.origin);
  state.blocks = 0;
  state.salt.assign(salt.data(), salt.size());
  state.first_count = 0;
  state.probeless = false;
  return absl::OkStatus();
}

void ChainHasher::GoOnAfter(const BlockKey& last) {
  state_->Advance(last);
  state_->blocks = 0;
  state_->probeless = true;
}

absl::Status ChainHasher::AddExtra(const ExtraKey& extra) {
  State& state = *state_;
  if (state.scheme == HashScheme::kExternal) {
    return absl::FailedPreconditionError(
        "the hash scheme is external; the engine's own hashes must cover its extra keys");
  }
  if (extra.tag < ExtraTag::kLora || extra.tag > ExtraTag::kGeneric) {
    return absl::InvalidArgumentError(
        absl::StrCat("extra tag is ", static_cast<uint32_t>(extra.tag), "; it must be 1 to 4"));
  }
  if (extra.bytes.size() > kExtraBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the length of an extra key is ", extra.bytes.size(),
                                                   "; it must be at most ", kExtraBytesMax, " bytes (hash it first)"));
  }
  if (extra.tag == ExtraTag::kMultimodal ? extra.offset_tokens >= state.block_tokens : extra.offset_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat("extra offset is ", extra.offset_tokens, "; it must be below ",
                                                   state.block_tokens, ", and 0 unless the tag is multimodal"));
  }
  if (state.extra_count == kExtrasPerBlockMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("block ", state.blocks, " has ", kExtrasPerBlockMax, " extra keys already, which is the limit"));
  }
  const bool with_offset = extra.tag == ExtraTag::kMultimodal;
  state.probeless = state.probeless || (extra.tag == ExtraTag::kPromptEmbedding && state.first_count < kProbeTokens);
  ++state.extra_count;
  state.extras.push_back(static_cast<uint8_t>(extra.tag));
  AppendU32(state.extras, static_cast<uint32_t>(extra.bytes.size() + (with_offset ? sizeof(uint32_t) : 0)));
  if (with_offset) AppendU32(state.extras, extra.offset_tokens);
  AppendBytes(state.extras, extra.bytes);
  return absl::OkStatus();
}

absl::Status ChainHasher::AppendTokens(std::span<const uint32_t> tokens, std::vector<BlockKey>& keys) {
  State& state = *state_;
  if (state.scheme == HashScheme::kExternal) {
    return absl::FailedPreconditionError("the hash scheme is external; append the engine's hashes, not tokens");
  }
  const size_t first = std::min(tokens.size(), kProbeTokens - state.first_count);
  std::copy_n(tokens.begin(), first, state.first_tokens.begin() + static_cast<ptrdiff_t>(state.first_count));
  state.first_count += first;
  while (!tokens.empty()) {
    const size_t count = std::min<size_t>(tokens.size(), state.block_tokens - state.tail_tokens);
    std::memcpy(state.message.data() + sizeof(BlockKey) + state.tail_tokens * sizeof(uint32_t), tokens.data(),
                count * sizeof(uint32_t));
    state.tail_tokens += static_cast<uint32_t>(count);
    tokens = tokens.subspan(count);
    if (state.tail_tokens == state.block_tokens) state.FinishBlock(keys);
  }
  return absl::OkStatus();
}

absl::Status ChainHasher::AppendHash(absl::string_view hash, std::vector<BlockKey>& keys) {
  State& state = *state_;
  if (state.scheme != HashScheme::kExternal) {
    return absl::FailedPreconditionError("the hash scheme is not external; append tokens, not hashes");
  }
  if (hash.empty() || hash.size() > kExternalHashBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the length of a hash is ", hash.size(), "; it must be 1 to ", kExternalHashBytesMax, " bytes"));
  }
  state.message.assign(1, kExternalTag);
  AppendU32(state.message, static_cast<uint32_t>(hash.size()));
  AppendBytes(state.message, hash);
  AppendBytes(state.message, state.origin.bytes());
  state.Advance(state.Hash(state.message));
  keys.push_back(state.last);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<BlockKey>> ChainHasher::HashPrompt(absl::string_view salt, std::span<const uint32_t> tokens,
                                                              std::span<const PlacedExtra> extras) {
  STEM_TRY(Restart(salt));
  const size_t block_tokens = state_->block_tokens;
  const size_t full_blocks = tokens.size() / block_tokens;
  std::vector<BlockKey> keys;
  keys.reserve(full_blocks);
  for (size_t i = 0; i < extras.size(); ++i) {
    if (i > 0 && extras[i].block < extras[i - 1].block) {
      return absl::InvalidArgumentError(
          absl::StrCat("extra ", i, " belongs to block ", extras[i].block, "; extras must ascend by block"));
    }
    if (extras[i].block >= full_blocks) break;
    const size_t done = keys.size();
    STEM_TRY(AppendTokens(tokens.subspan(done * block_tokens, (extras[i].block - done) * block_tokens), keys));
    STEM_TRY(AddExtra(extras[i].extra));
  }
  STEM_TRY(AppendTokens(tokens.subspan(keys.size() * block_tokens), keys));
  return keys;
}

const BlockKey& ChainHasher::origin() const { return state_->origin; }
const BlockKey& ChainHasher::last() const { return state_->last; }
size_t ChainHasher::blocks() const { return state_->blocks; }
uint32_t ChainHasher::tail_tokens() const { return state_->tail_tokens; }

std::optional<Probe> ChainHasher::probe() const {
  const State& state = *state_;
  if (!state.probe_key.has_value() || state.first_count < kProbeTokens || state.probeless) return std::nullopt;
  return ProbeOf(*state.probe_key, state.first_tokens, state.salt);
}

}  // namespace stem
