#include "services/console/access_token.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <array>

#include "absl/strings/escaping.h"
#include "proto/check.h"

namespace stem {

std::string NewAccessToken() {
  std::array<unsigned char, 16> bytes = {};
  STEM_CHECK(RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) == 1);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

bool ShowsToken(absl::string_view shown, absl::string_view token) {
  return !token.empty() && shown.size() == token.size() && CRYPTO_memcmp(shown.data(), token.data(), token.size()) == 0;
}

}  // namespace stem
