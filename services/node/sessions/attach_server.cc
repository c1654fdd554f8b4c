#include "services/node/sessions/attach_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "storage/pool/fd_socket.h"

namespace stem {
namespace {

constexpr size_t kMessageMax = 64 << 10;  // of one attach message, bytes
constexpr size_t kConnectionsMax = kSessionsMax;
constexpr int kEventsMax = 64;

absl::StatusOr<ClientProcess> ProcessBehind(int socket) {
  struct ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return absl::InternalError(absl::StrCat("SO_PEERCRED: ", strerror(errno)));
  }
  return ClientProcess{.pid = credentials.pid, .uid = credentials.uid};
}

absl::Status Watch(int epoll, int fd) {
  struct epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot watch a descriptor: ", strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<AttachServer>> AttachServer::Start(Options options, SpaceTable& spaces,
                                                                  SessionTable& sessions, const ClusterSecret& secret,
                                                                  Logger& log) {
  std::unique_ptr<AttachServer> server(new AttachServer(std::move(options), spaces, sessions, secret, log));
  STEM_TRY(server->Listen());
  server->thread_ = std::thread([raw = server.get()] { raw->Run(); });
  return server;
}

AttachServer::~AttachServer() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(wake_.get(), &one, sizeof(one));
    thread_.join();
  }
  if (listener_.valid()) unlink(options_.path.c_str());
}

absl::Status AttachServer::Listen() {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (options_.path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("--socket: the attach path '", options_.path, "' has ", options_.path.size(),
                                                   " bytes; a Unix socket's path has at most ", sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, options_.path.data(), options_.path.size());
  const auto* const generic = reinterpret_cast<const struct sockaddr*>(&address);
  {
    const UniqueFd probe(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (connect(probe.get(), generic, sizeof(address)) == 0) {
      return absl::UnavailableError(absl::StrCat("another process listens on ", options_.path));
    }
  }
  unlink(options_.path.c_str());
  listener_ = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (bind(listener_.get(), generic, sizeof(address)) != 0 || listen(listener_.get(), 128) != 0) {
    const int cause = errno;
    listener_ = UniqueFd();
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options_.path, ": ", strerror(cause)));
  }
  // Any user may knock: who may attach is decided by uid and trust group.
  chmod(options_.path.c_str(), 0666);
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  STEM_TRY(Watch(epoll_.get(), wake_.get()));
  return Watch(epoll_.get(), listener_.get());
}

void AttachServer::Run() {
  std::array<struct epoll_event, kEventsMax> events;
  while (true) {
    const int count = epoll_wait(epoll_.get(), events.data(), kEventsMax, -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == wake_.get()) return;
      if (fd == listener_.get()) {
        Accept();
      } else if (const auto process = socket_of_process_.find(fd); process != socket_of_process_.end()) {
        Drop(process->second);
        break;  // the rest of the batch may name descriptors that are closed now: ask again
      } else if (const auto connection = connections_.find(fd); connection != connections_.end()) {
        if (Serve(connection->second)) continue;
        Drop(fd);
        break;
      }
    }
  }
}

void AttachServer::Accept() {
  Connection connection;
  connection.socket = UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.socket.valid()) return;
  const absl::StatusOr<ClientProcess> process = ProcessBehind(connection.socket.get());
  if (!process.ok() || connections_.size() >= kConnectionsMax) {
    log_.Warn("attach_refused", {{"connections", connections_.size()}, {"limit", kConnectionsMax}});
    return;
  }
  connection.peer = *process;
  connection.process = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, process->pid, 0)));
  const int socket = connection.socket.get();
  if (!Watch(epoll_.get(), socket).ok()) return;
  // Without a pidfd (the process is in another pid namespace) the socket alone tells of its end.
  if (connection.process.valid() && Watch(epoll_.get(), connection.process.get()).ok()) {
    socket_of_process_[connection.process.get()] = socket;
  }
  connections_[socket] = std::move(connection);
}

bool AttachServer::Serve(Connection& connection) {
  std::string bytes(kMessageMax + 1, '\0');
  const ssize_t received = recv(connection.socket.get(), bytes.data(), bytes.size(), 0);
  if (received < 0) return errno == EAGAIN || errno == EINTR;
  if (received == 0 || connection.attached) return false;  // gone, or speaking out of turn
  bytes.resize(static_cast<size_t>(received));

  v1::AttachReply reply;
  std::vector<int> fds;
  v1::AttachRequest request;
  absl::Status status;
  if (bytes.size() > kMessageMax) {
    status = absl::InvalidArgumentError(absl::StrCat("the attach message is longer than ", kMessageMax, " bytes"));
  } else if (!request.ParseFromString(bytes)) {
    status = absl::InvalidArgumentError("the attach message is not a stemcache.v1.AttachRequest");
  } else if (!request.host_peer_token().empty()) {
    status = AttachHostPeer(request, connection, &reply, &fds);
  } else {
    status = Attach(request, connection, &reply, &fds);
  }
  connection.attached = status.ok();
  if (!status.ok()) {
    log_.Warn("attach_refused", {{"pid", connection.peer.pid}, {"uid", connection.peer.uid}, {"why", status.message()}});
    reply.Clear();
    fds.clear();
    reply.set_code(static_cast<uint32_t>(status.code()));
    reply.set_message(std::string(status.message()));
  }
  const absl::Status sent = SendFdPacket(connection.socket.get(), reply.SerializeAsString(), fds);
  return status.ok() && sent.ok();
}

absl::Status AttachServer::Attach(const v1::AttachRequest& request, Connection& connection, v1::AttachReply* reply,
                                  std::vector<int>* fds) {
  STEM_TRY(options_.drain.MayBegin("sessions"));
  STEM_ASSIGN(const AttachCall call, ValidateAttach(request));
  STEM_ASSIGN(const SpaceTable::Registered registered,
              spaces_.Register(call.spec, connection.peer.uid, call.shared_group));
  const uint64_t staging_bytes = (call.staging_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  STEM_ASSIGN(const SessionTable::Created created,
              sessions_.Create(*registered.space, connection.peer, call.client_name, staging_bytes));
  connection.token = created.token;
  created.session->set_offers(UniqueFd(fcntl(connection.socket.get(), F_DUPFD_CLOEXEC, 0)));

  const GroupMemory& memory = *registered.space->memory;
  reply->set_session_token(created.token);
  reply->set_namespace_fingerprint(std::string(registered.space->fingerprint.bytes()));
  reply->set_root(registered.space->root.data(), registered.space->root.size());
  reply->set_probe_key(registered.space->probe_key.data(), registered.space->probe_key.size());
  reply->set_node(options_.node);
  reply->set_incarnation(options_.incarnation);
  reply->set_staging_bytes(staging_bytes);
  for (const std::string& warning : registered.warnings) reply->add_warnings(warning);
  v1::ArenaMap* const arena = reply->add_arenas();
  arena->set_arena(memory.arena_id);
  arena->set_bytes(memory.arena.bytes().size());
  arena->set_slot_bytes(memory.pool->geometry().slot_bytes);
  arena->set_payload_offset(memory.pool->geometry().payload_offset);
  arena->set_slot_map_bytes(memory.slot_map->bytes().size());
  if (staging_bytes > 0) fds->push_back(created.session->staging()->fd());
  fds->push_back(memory.arena.fd());
  fds->push_back(memory.slot_map->fd());
  log_.Info("client_attached", {{"session", created.session->id()},
                                {"client", call.client_name},
                                {"pid", connection.peer.pid},
                                {"uid", connection.peer.uid},
                                {"group", memory.group.name},
                                {"model", call.spec.model},
                                {"namespace", registered.space->fingerprint.ToHex()},
                                {"staging_bytes", staging_bytes}});
  for (const std::string& warning : registered.warnings) log_.Warn("namespace_differs", {{"what", warning}});
  return absl::OkStatus();
}

absl::Status AttachServer::AttachHostPeer(const v1::AttachRequest& request, const Connection& connection,
                                          v1::AttachReply* reply, std::vector<int>* fds) {
  if (request.protocol() != kAttachProtocol) {
    return absl::InvalidArgumentError(absl::StrCat("protocol is ", request.protocol(), "; this node speaks ", kAttachProtocol));
  }
  if (!secret_.IsHostPeerToken(request.host_peer_token(), options_.incarnation)) {
    return absl::UnauthenticatedError("host_peer_token is not this cluster's for this incarnation; give both nodes one --secret-file");
  }
  reply->set_node(options_.node);
  reply->set_incarnation(options_.incarnation);
  for (const auto& memory : spaces_.memories()) {
    v1::ArenaMap* const arena = reply->add_arenas();
    arena->set_arena(memory->arena_id);
    arena->set_bytes(memory->arena.bytes().size());
    fds->push_back(memory->arena.fd());
  }
  log_.Info("host_peer_attached", {{"pid", connection.peer.pid}, {"uid", connection.peer.uid}});
  return absl::OkStatus();
}

void AttachServer::Drop(int socket) {
  const auto it = connections_.find(socket);
  if (it == connections_.end()) return;
  if (!it->second.token.empty()) {
    log_.Info("client_detached", {{"pid", it->second.peer.pid}});
    sessions_.Close(it->second.token);
  }
  if (it->second.process.valid()) socket_of_process_.erase(it->second.process.get());
  connections_.erase(it);  // closing the descriptors takes them out of epoll
}

}  // namespace stem
