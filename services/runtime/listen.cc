#include "services/runtime/listen.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/status.h"
#include "proto/validate.h"

namespace stem {
namespace {

// The file at `path` is a socket on which a process answers.
absl::Status CheckUnixPath(const std::string& path) {
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(name.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("the socket path '", path, "' has ", path.size(),
                                                   " bytes; it must have 1 to ", sizeof(name.sun_path) - 1));
  }
  std::memcpy(name.sun_path, path.data(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return absl::UnavailableError(absl::StrCat("no socket: ", std::strerror(errno)));
  const bool answered = connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0;
  close(fd);
  if (answered) return absl::UnavailableError(absl::StrCat("cannot listen on ", path, ": another process does"));
  return absl::OkStatus();
}

}  // namespace

std::string HostPort::ToString() const {
  return absl::StrContains(host, ':') ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not an address; use e.g. 127.0.0.1:7400"));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return bad();
  absl::string_view host = text.substr(0, colon);
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  const absl::string_view digits = text.substr(colon + 1);
  uint32_t port = 0;
  const bool numeric = !digits.empty() && digits.find_first_not_of("0123456789") == absl::string_view::npos &&
                       absl::SimpleAtoi(digits, &port) && port <= 65535;
  if (!numeric || host.empty() || host.find_first_of("[] \t\r\n/") != absl::string_view::npos ||
      absl::StrContains(host, ':') != bracketed) {
    return bad();
  }
  return HostPort{.host = std::string(host), .port = static_cast<uint16_t>(port)};
}

bool IsLoopback(const HostPort& address) {
  if (address.host == "localhost") return true;
  in_addr v4 = {};
  if (inet_pton(AF_INET, address.host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  return inet_pton(AF_INET6, address.host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

absl::Status CheckListenAddress(absl::string_view flag, const HostPort& address, bool insecure_allow_remote,
                                Logger& log) {
  if (IsLoopback(address)) return absl::OkStatus();
  if (!insecure_allow_remote) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": '", address.ToString(), "' can be reached from other hosts, and nothing encrypts or ",
                     "limits access yet; use 127.0.0.1, or --insecure-allow-remote on a network you trust"));
  }
  log.Warn("insecure_listener", {{"flag", flag}, {"address", address.ToString()}});
  return absl::OkStatus();
}

absl::Status ProbeBind(const HostPort& address) {
  const addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM,
                          .ai_protocol = 0, .ai_addrlen = 0, .ai_addr = nullptr, .ai_canonname = nullptr,
                          .ai_next = nullptr};
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (failed != 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(), ": ", gai_strerror(failed)));
  }
  const absl::Cleanup release = [found] { freeaddrinfo(found); };
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int code = fd < 0 ? errno : 0;
  const int on = 1;  // as the server will: ports of connections that just ended are free
  if (fd >= 0) {
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) code = errno;
    close(fd);
  }
  if (code == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address.ToString(), ": ", std::strerror(code)));
}

absl::StatusOr<GrpcServer> StartGrpcServer(grpc::ServerBuilder& builder, const std::vector<HostPort>& tcp,
                                           const std::vector<std::string>& unix_paths) {
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  // gRPC shares ports by default: two processes would each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  std::vector<int> bound(tcp.size() + unix_paths.size(), 0);
  std::string addresses;
  size_t next = 0;
  for (const HostPort& address : tcp) {
    // Asked first, because gRPC's own failure is a page of its log and no reason.
    if (address.port != 0) STEM_TRY(ProbeBind(address));
    builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &bound[next++]);
    absl::StrAppend(&addresses, addresses.empty() ? "" : ", ", address.ToString());
  }
  for (const std::string& path : unix_paths) {
    STEM_TRY(CheckUnixPath(path));
    builder.AddListeningPort(absl::StrCat("unix:", path), grpc::InsecureServerCredentials(), &bound[next++]);
    absl::StrAppend(&addresses, addresses.empty() ? "" : ", ", path);
  }
  GrpcServer started{.server = builder.BuildAndStart(), .ports = {}};
  if (started.server == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", addresses));
  }
  for (size_t i = 0; i < tcp.size(); ++i) {
    if (bound[i] <= 0) return absl::UnavailableError(absl::StrCat("cannot listen on ", tcp[i].ToString()));
    started.ports.push_back(static_cast<uint16_t>(bound[i]));
  }
  return started;
}

}  // namespace stem
