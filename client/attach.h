// The handshake on the attach socket: who we are and what we want, one message there; one back, with the memory.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "client/deadline.h"
#include "client/session_memory.h"
#include "proto/status.h"
#include "proto/validate_replies.h"
#include "storage/pool/arena.h"

namespace stem {

struct Attachment {
  UniqueFd socket;  // stays open for the session's life; its end of file means that the node is gone
  AttachGrant grant;
  std::shared_ptr<SessionMemory> memory;
};

// The path in "unix:///path" or "unix:/path". Errors: InvalidArgument (another form, or too long for a socket).
absl::StatusOr<std::string> SocketPath(absl::string_view node);

// A connection to the attach socket of the node whose gRPC socket is `path`.
// Errors: Unavailable (nobody listens), DeadlineExceeded.
absl::StatusOr<UniqueFd> ConnectToNode(const std::string& path, const Deadline& deadline);

// The handshake on `socket`, which stays the caller's: Attachment.socket is left empty. shutdown() of the socket by
// another thread ends it. Errors: Unavailable (the node hung up), DeadlineExceeded, Internal (a reply that validation
// refuses), whatever the node refused with.
absl::StatusOr<Attachment> Attach(int socket, const v1::AttachRequest& request, const NamespaceSpec& spec,
                                  const Deadline& deadline);

}  // namespace stem
