// Packets with file descriptors over a Unix socket: how memory changes hands on one host. Sockets are SOCK_SEQPACKET, so a
// packet comes whole or not at all.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/status.h"
#include "storage/pool/arena.h"

namespace stem {

// The caller's deadline, asked again before each wait.
using TimeLeft = absl::FunctionRef<absl::Duration()>;

struct FdPacket {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

// A connection to the listener at `path`. Errors: Unavailable (nobody listens), DeadlineExceeded, InvalidArgument (the path is
// too long for a socket), ResourceExhausted (descriptors).
absl::StatusOr<UniqueFd> ConnectFdSocket(const std::string& path, TimeLeft left);

// Sends without waiting; `fds` stay the caller's. Errors: Unavailable.
absl::Status SendFdPacket(int socket, absl::string_view bytes, std::span<const int> fds);

// Waits for a packet of at most `bytes_max` and `fds_max` descriptors. Errors: Unavailable (the other side hung up),
// DeadlineExceeded, Internal (a larger packet; its descriptors are closed).
absl::StatusOr<FdPacket> ReceiveFdPacket(int socket, size_t bytes_max, size_t fds_max, TimeLeft left);

}  // namespace stem
