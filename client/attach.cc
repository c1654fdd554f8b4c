#include "client/attach.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/wire_status.h"

namespace stem {
namespace {

constexpr absl::string_view kAttachSuffix = ".attach";
constexpr size_t kDescriptorsMax = kAttachArenasMax + 1;

absl::Status SocketError(absl::string_view what, int cause) {
  const std::string message = absl::StrCat(what, ": ", strerror(cause));
  if (cause == EAGAIN || cause == EWOULDBLOCK || cause == EINPROGRESS) {
    return absl::DeadlineExceededError(absl::StrCat("the node did not answer in time: ", message));
  }
  return absl::UnavailableError(message);
}

// The kernel ends a connect, send or receive that takes longer than what is left.
absl::Status LimitTime(int socket, const Deadline& deadline) {
  const absl::Duration left = deadline.left();
  if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the deadline passed before the node was asked");
  timeval time = absl::ToTimeval(left);
  if (time.tv_sec == 0 && time.tv_usec == 0) time.tv_usec = 1;  // zero would mean no limit
  if (setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)) != 0 ||
      setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) != 0) {
    return absl::InternalError(absl::StrCat("cannot limit the attach socket's time: ", strerror(errno)));
  }
  return absl::OkStatus();
}

struct Received {
  v1::AttachReply reply;
  std::vector<UniqueFd> descriptors;
};

// Takes every descriptor out of `header` before anything can fail, so that none leaks.
std::vector<UniqueFd> TakeDescriptors(msghdr& header) {
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(fd);
    }
  }
  return descriptors;
}

absl::StatusOr<Received> Receive(int socket, const Deadline& deadline) {
  std::vector<char> bytes(kAttachMessageBytesMax);
  alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int))];
  iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t size = 0;
  do {
    STEM_TRY(LimitTime(socket, deadline));
    size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return SocketError("no attach reply", errno);
  Received received;
  received.descriptors = TakeDescriptors(header);
  if (size == 0) return absl::UnavailableError("the node hung up on the attach socket");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InternalError(absl::StrCat("the attach reply is over ", kAttachMessageBytesMax, " bytes or ",
                                            kDescriptorsMax, " descriptors"));
  }
  if (!received.reply.ParseFromArray(bytes.data(), static_cast<int>(size))) {
    return absl::InternalError(absl::StrCat("the attach reply of ", size, " bytes is not an AttachReply"));
  }
  return received;
}

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
  const std::string attach_path = absl::StrCat(path, kAttachSuffix);
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ResourceExhaustedError(absl::StrCat("cannot open a socket: ", strerror(errno)));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, attach_path.c_str(), attach_path.size() + 1);
  int result = 0;
  do {
    STEM_TRY(LimitTime(fd.get(), deadline));
    result = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return SocketError(absl::StrCat("cannot attach to ", attach_path), errno);
  return fd;
}

absl::StatusOr<Attachment> Attach(int socket, const v1::AttachRequest& request, const NamespaceSpec& spec,
                                  const Deadline& deadline) {
  const std::string bytes = request.SerializeAsString();
  if (bytes.size() > kAttachMessageBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the attach request is ", bytes.size(), " bytes; it must be at most ", kAttachMessageBytesMax));
  }
  STEM_TRY(LimitTime(socket, deadline));
  if (send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0)
    return SocketError("cannot send the attach request", errno);
  STEM_ASSIGN(Received received, Receive(socket, deadline));
  if (received.reply.code() != 0) return FromCode(received.reply.code(), received.reply.message());
  absl::StatusOr<AttachGrant> grant = ValidateAttachReply(received.reply, spec, received.descriptors.size());
  if (!grant.ok()) {
    return absl::InternalError(absl::StrCat("the node sent a bad attach reply: ", grant.status().message()));
  }
  Attachment attachment;
  attachment.grant = *std::move(grant);
  STEM_ASSIGN(attachment.memory, SessionMemory::Map(spec, attachment.grant, std::move(received.descriptors)));
  return attachment;
}

}  // namespace stem
