// Where a process listens: addresses, the loopback law, and gRPC servers that fail with a sentence.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "services/runtime/log.h"

namespace stem {

struct HostPort {
  std::string host;   // without the brackets of an IPv6 address
  uint16_t port = 0;  // 0 = the kernel picks one

  // "127.0.0.1:7400", "[::1]:7400".
  std::string ToString() const;
};

// "host:port" with port 0..65535. Errors: InvalidArgument.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// 127.0.0.0/8, ::1 and "localhost".
bool IsLoopback(const HostPort& address);

// Law 9: until roles and TLS exist, a TCP listener binds loopback. `flag` is named in the error. With
// `insecure_allow_remote` any address will do, and is warned about. Errors: InvalidArgument.
absl::Status CheckListenAddress(absl::string_view flag, const HostPort& address, bool insecure_allow_remote,
                                Logger& log);

struct GrpcServer {
  std::unique_ptr<grpc::Server> server;  // never null
  std::vector<uint16_t> ports;           // bound, one per TCP address in order
};

// Sets message limits, binds `tcp` and `unix_paths` without encryption, and starts `builder`'s services.
// A socket file that no one listens on is replaced. Errors: Unavailable names the address and why.
absl::StatusOr<GrpcServer> StartGrpcServer(grpc::ServerBuilder& builder, const std::vector<HostPort>& tcp,
                                           const std::vector<std::string>& unix_paths = {});

// OK when `address` can be bound now; else Unavailable with the kernel's reason. The answer may age at once.
absl::Status ProbeBind(const HostPort& address);

}  // namespace stem
