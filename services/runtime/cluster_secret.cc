#include "services/runtime/cluster_secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/check.h"
#include "proto/status.h"

namespace stem {
namespace {

constexpr char kHeader[] = "authorization";
constexpr absl::string_view kPurpose = "stemcache/v1 peer";
constexpr absl::string_view kHostPeerPurpose = "stemcache/v1 host peer";

std::string HmacOf(std::span<const uint8_t> secret, absl::string_view text) {
  std::string mac(32, '\0');
  unsigned int mac_bytes = static_cast<unsigned int>(mac.size());
  STEM_CHECK(HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
                  reinterpret_cast<const uint8_t*>(text.data()), text.size(), reinterpret_cast<uint8_t*>(mac.data()),
                  &mac_bytes) != nullptr);
  return mac;
}

}  // namespace

ClusterSecret::ClusterSecret(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)), bearer_(absl::StrCat("Bearer ", absl::BytesToHexString(HmacOf(bytes_, kPurpose)))) {}

absl::StatusOr<ClusterSecret> ClusterSecret::FromBytes(std::vector<uint8_t> bytes) {
  if (bytes.size() < kSecretBytesMin || bytes.size() > kSecretBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the cluster secret has ", bytes.size(), " bytes; it must have ",
                                                   kSecretBytesMin, " to ", kSecretBytesMax,
                                                   ", e.g. from: openssl rand -hex 32"));
  }
  return ClusterSecret(std::move(bytes));
}

absl::StatusOr<ClusterSecret> ClusterSecret::Read(const std::string& path, Logger& log) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return absl::UnavailableError(absl::StrCat("--secret-file: '", path, "' is not a readable file"));
  }
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> bytes(kSecretBytesMax + 1);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (file.bad() || !file.is_open()) {
    return absl::UnavailableError(absl::StrCat("--secret-file: '", path, "' is not a readable file"));
  }
  bytes.resize(static_cast<size_t>(file.gcount()));
  absl::StatusOr<ClusterSecret> secret = FromBytes(std::move(bytes));
  if (!secret.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--secret-file: '", path, "': ", secret.status().message()));
  }
  if ((info.st_mode & (S_IRGRP | S_IROTH)) != 0) {
    const std::string mode = absl::StrFormat("%04o", info.st_mode & 0777);
    log.Warn("secret_file_readable_by_others", {{"path", path}, {"mode", mode}});
  }
  return secret;
}

void ClusterSecret::AddToken(grpc::ClientContext& context) const { context.AddMetadata(kHeader, bearer_); }

absl::Status ClusterSecret::CheckToken(const grpc::ServerContextBase& context) const {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kHeader);
  // Every token has the same length, so its comparison alone could tell anything.
  if (found != metadata.end() && found->second.size() == bearer_.size() &&
      CRYPTO_memcmp(found->second.data(), bearer_.data(), bearer_.size()) == 0) {
    return absl::OkStatus();
  }
  return absl::UnauthenticatedError("the caller did not show this cluster's secret; give it the same --secret-file");
}

std::string ClusterSecret::HostPeerToken(uint64_t incarnation) const {
  std::string text(kHostPeerPurpose);
  text.append(reinterpret_cast<const char*>(&incarnation), sizeof(incarnation));
  return HmacOf(bytes_, text);
}

bool ClusterSecret::IsHostPeerToken(absl::string_view token, uint64_t incarnation) const {
  const std::string expected = HostPeerToken(incarnation);
  return token.size() == expected.size() && CRYPTO_memcmp(token.data(), expected.data(), expected.size()) == 0;
}

}  // namespace stem
