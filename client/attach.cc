#include "client/attach.h"

#include <sys/un.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/wire_status.h"
#include "storage/pool/fd_socket.h"

namespace stem {
namespace {

constexpr absl::string_view kAttachSuffix = ".attach";
constexpr size_t kDescriptorsMax = kAttachArenasMax + 1;

}  // namespace

absl::StatusOr<std::string> SocketPath(absl::string_view node) {
  absl::string_view path = node;
  const bool is_unix = absl::ConsumePrefix(&path, "unix:");
  if (absl::StartsWith(path, "//")) path.remove_prefix(2);
  const size_t bytes_max = sizeof(sockaddr_un::sun_path) - 1 - kAttachSuffix.size();
  if (!is_unix || !absl::StartsWith(path, "/") || path.size() > bytes_max || absl::StrContains(path, '\0')) {
    return absl::InvalidArgumentError(absl::StrCat(
        "node is \"", node, "\"; it must be unix:///path/of/node.sock, with at most ", bytes_max, " bytes of path"));
  }
  return std::string(path);
}

absl::StatusOr<UniqueFd> ConnectToNode(const std::string& path, const Deadline& deadline) {
  return ConnectFdSocket(absl::StrCat(path, kAttachSuffix), [&] { return deadline.left(); });
}

absl::StatusOr<Attachment> Attach(int socket, const v1::AttachRequest& request, const NamespaceSpec& spec,
                                  const Deadline& deadline) {
  const std::string bytes = request.SerializeAsString();
  if (bytes.size() > kAttachMessageBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the attach request is ", bytes.size(), " bytes; it must be at most ", kAttachMessageBytesMax));
  }
  STEM_TRY(SendFdPacket(socket, bytes, {}));
  STEM_ASSIGN(FdPacket received,
              ReceiveFdPacket(socket, kAttachMessageBytesMax, kDescriptorsMax, [&] { return deadline.left(); }));
  v1::AttachReply reply;
  if (!reply.ParseFromString(received.bytes)) {
    return absl::InternalError(absl::StrCat("the attach reply of ", received.bytes.size(), " bytes is not an AttachReply"));
  }
  if (reply.code() != 0) return FromCode(reply.code(), reply.message());
  absl::StatusOr<AttachGrant> grant = ValidateAttachReply(reply, spec, received.fds.size());
  if (!grant.ok()) {
    return absl::InternalError(absl::StrCat("the node sent a bad attach reply: ", grant.status().message()));
  }
  Attachment attachment;
  attachment.grant = *std::move(grant);
  STEM_ASSIGN(attachment.memory, SessionMemory::Map(spec, attachment.grant, std::move(received.fds)));
  return attachment;
}

}  // namespace stem
