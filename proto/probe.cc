#include "proto/probe.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr absl::string_view kPurpose = "stemcache/v1 probe";

std::array<uint8_t, 32> Hmac(std::span<const uint8_t> key, absl::string_view message) {
  std::array<uint8_t, 32> mac;
  unsigned int size = 0;
  STEM_CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const uint8_t*>(message.data()),
                  message.size(), mac.data(), &size) != nullptr);
  return mac;
}

}  // namespace

ProbeKey ProbeKeyOf(std::span<const uint8_t> cluster_secret, absl::string_view trust_group) {
  return Hmac(cluster_secret, absl::StrCat(kPurpose, trust_group));
}

Probe ProbeOf(const ProbeKey& key, std::span<const uint32_t, kProbeTokens> first_tokens, absl::string_view salt) {
  const absl::string_view tokens(reinterpret_cast<const char*>(first_tokens.data()), first_tokens.size_bytes());
  const std::array<uint8_t, 32> mac = Hmac(key, absl::StrCat(tokens, salt));
  Probe probe;
  std::memcpy(static_cast<void*>(&probe), mac.data(), sizeof(probe));
  return probe;
}

}  // namespace stem
