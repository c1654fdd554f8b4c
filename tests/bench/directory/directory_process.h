// A real stem-directory as a child process, and how benches talk to it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "services/runtime/cluster_secret.h"

namespace stem::bench {

// Ends the process on any failure: a bench has no other use for it.
class DirectoryProcess {
 public:
  // `port` 0 = any. A folder of its own holds the secret, the ready file and the log.
  DirectoryProcess(const std::string& binary, const std::string& folder, uint32_t heartbeat_ms, uint32_t stale_ms_max);
  ~DirectoryProcess();
  DirectoryProcess(const DirectoryProcess&) = delete;
  DirectoryProcess& operator=(const DirectoryProcess&) = delete;

  void Start();  // on the same port as before, when it ran before; returns once it listens
  void Kill();   // SIGKILL

  bool running() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  const std::string& address() const { return address_; }

 private:
  const std::string binary_;
  const std::string folder_;
  const uint32_t heartbeat_ms_;
  const uint32_t stale_ms_max_;
  std::string address_ = "127.0.0.1:0";
  pid_t pid_ = 0;
};

ClusterSecret BenchSecret();

// Never shares a connection with another channel, and reconnects fast.
std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address);

}  // namespace stem::bench
