#include "storage/pool/fd_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

absl::Status SocketError(absl::string_view what, int cause) {
  const std::string message = absl::StrCat(what, ": ", strerror(cause));
  if (cause == EAGAIN || cause == EWOULDBLOCK || cause == EINPROGRESS) {
    return absl::DeadlineExceededError(absl::StrCat("the node did not answer in time: ", message));
  }
  return absl::UnavailableError(message);
}

// The kernel ends a connect or receive that takes longer than what is left.
absl::Status LimitTime(int socket, absl::Duration left) {
  if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("the deadline passed before the node was asked");
  timeval time = absl::ToTimeval(left);
  if (time.tv_sec == 0 && time.tv_usec == 0) time.tv_usec = 1;  // zero would mean no limit
  if (setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)) != 0 ||
      setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)) != 0) {
    return absl::InternalError(absl::StrCat("cannot limit the attach socket's time: ", strerror(errno)));
  }
  return absl::OkStatus();
}

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

}  // namespace

absl::StatusOr<UniqueFd> ConnectFdSocket(const std::string& path, TimeLeft left) {
  sockaddr_un address = {};
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path '", path, "' has ", path.size(), " bytes; it may have ",
                                                   sizeof(address.sun_path) - 1));
  }
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::ResourceExhaustedError(absl::StrCat("cannot open a socket: ", strerror(errno)));
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  int result = 0;
  do {
    STEM_TRY(LimitTime(fd.get(), left()));
    result = connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return SocketError(absl::StrCat("cannot attach to ", path), errno);
  return fd;
}

absl::Status SendFdPacket(int socket, absl::string_view bytes, std::span<const int> fds) {
  iovec data{.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(fds.size_bytes()));
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot send on the attach socket: ", strerror(errno)));
}

absl::StatusOr<FdPacket> ReceiveFdPacket(int socket, size_t bytes_max, size_t fds_max, TimeLeft left) {
  FdPacket packet;
  packet.bytes.resize(bytes_max);
  std::vector<char> control(CMSG_SPACE(fds_max * sizeof(int)));
  iovec part{.iov_base = packet.bytes.data(), .iov_len = packet.bytes.size()};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t size = 0;
  do {
    STEM_TRY(LimitTime(socket, left()));
    size = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return SocketError("no attach reply", errno);
  packet.fds = TakeDescriptors(header);
  if (size == 0) return absl::UnavailableError("the node hung up on the attach socket");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InternalError(absl::StrCat("the attach reply is over ", bytes_max, " bytes or ", fds_max, " descriptors"));
  }
  packet.bytes.resize(static_cast<size_t>(size));
  return packet;
}

}  // namespace stem
