// The attach socket: where a client process proves who it is (the kernel says), registers its namespace and gets memory.
// Its connection is the session: when it closes, or the process dies, everything the session held is freed. Other nodes of this
// host come here too, for the arenas, which they read under leases.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "proto/status.h"
#include "services/node/sessions/drain.h"
#include "services/node/sessions/session.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/log.h"
#include "storage/pool/arena.h"

namespace stem {

class AttachServer {
 public:
  struct Options {
    std::string path;  // of the socket; replaced when no one listens on it
    std::string node;
    uint64_t incarnation = 0;
    const Drain& drain;  // borrowed
  };

  // Listens and starts its thread; borrows all but the options. Errors: InvalidArgument (path too long), Unavailable
  // (someone listens there).
  static absl::StatusOr<std::unique_ptr<AttachServer>> Start(Options options, SpaceTable& spaces, SessionTable& sessions,
                                                             const ClusterSecret& secret, Logger& log);
  // Stops listening; sessions stay until their table closes them.
  ~AttachServer();
  AttachServer(const AttachServer&) = delete;
  AttachServer& operator=(const AttachServer&) = delete;

 private:
  struct Connection {
    UniqueFd socket;
    UniqueFd process;  // pidfd: readable once the process is dead
    ClientProcess peer;
    std::string token;  // of the session; empty until attached, and for host peers
    bool attached = false;
  };

  AttachServer(Options options, SpaceTable& spaces, SessionTable& sessions, const ClusterSecret& secret, Logger& log)
      : options_(std::move(options)), spaces_(spaces), sessions_(sessions), secret_(secret), log_(log) {}

  absl::Status Listen();
  void Run();
  void Accept();
  // False when the connection is over.
  bool Serve(Connection& connection);
  absl::Status AttachHostPeer(const v1::AttachRequest& request, const Connection& connection, v1::AttachReply* reply,
                              std::vector<int>* fds);
  absl::Status Attach(const v1::AttachRequest& request, Connection& connection, v1::AttachReply* reply,
                      std::vector<int>* fds);
  void Drop(int socket);

  const Options options_;
  SpaceTable& spaces_;
  SessionTable& sessions_;
  const ClusterSecret& secret_;
  Logger& log_;
  UniqueFd listener_;
  UniqueFd epoll_;
  UniqueFd wake_;
  std::map<int, Connection> connections_;   // by socket; of the thread alone
  std::map<int, int> socket_of_process_;    // pidfd -> socket
  std::thread thread_;
};

}  // namespace stem
