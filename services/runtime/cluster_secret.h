// The secret that every node and directory of a cluster shares. From it come the namespaces' roots, and the
// bearer token by which members know each other: "Bearer " + hex(HMAC-SHA256(secret, "stemcache/v1 peer")).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "grpcpp/server_context.h"
#include "services/runtime/log.h"

namespace stem {

inline constexpr size_t kSecretBytesMin = 32;
inline constexpr size_t kSecretBytesMax = 4096;

// Immutable, so any thread. Copies hold the secret too: pass it by reference.
class ClusterSecret {
 public:
  // The file's bytes as they are, 32 to 4096 of them; a trailing newline counts. Warns when others than the owner
  // can read it. Errors: InvalidArgument (too short or long), Unavailable (not readable).
  static absl::StatusOr<ClusterSecret> Read(const std::string& path, Logger& log);
  // Errors: InvalidArgument (size).
  static absl::StatusOr<ClusterSecret> FromBytes(std::vector<uint8_t> bytes);

  std::span<const uint8_t> bytes() const { return bytes_; }

  // Marks a call as coming from a member.
  void AddToken(grpc::ClientContext& context) const;

  // Unauthenticated unless the caller has shown the same secret; takes the same time whatever it showed.
  absl::Status CheckToken(const grpc::ServerContextBase& context) const;

  // 32 bytes that show a node of this host to the one whose incarnation it is, and to no other process that may listen there:
  // HMAC-SHA256(secret, "stemcache/v1 host peer" || incarnation, u64 LE).
  std::string HostPeerToken(uint64_t incarnation) const;
  // Takes the same time whatever was shown.
  bool IsHostPeerToken(absl::string_view token, uint64_t incarnation) const;

 private:
  explicit ClusterSecret(std::vector<uint8_t> bytes);

  std::vector<uint8_t> bytes_;
  std::string bearer_;
};

}  // namespace stem
