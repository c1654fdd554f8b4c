// Keeps one key of this process in etcd, under a lease, for as long as it lives. One thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "services/runtime/backoff.h"
#include "services/runtime/etcd_client.h"
#include "services/runtime/fleet.h"
#include "services/runtime/log.h"

namespace stem {

class EtcdRegistration {
 public:
  struct Options {
    std::string key;
    FleetMember self;
    absl::Duration lease;
  };

  // Begins; borrows client and log. The first registration replaces whoever had the name, for that is most likely this process's
  // last life. Later ones, after etcd or the lease were lost, yield to a younger namesake.
  EtcdRegistration(Options options, EtcdClient& client, Logger& log);
  // Gives the key up at once, if etcd answers.
  ~EtcdRegistration();
  EtcdRegistration(const EtcdRegistration&) = delete;
  EtcdRegistration& operator=(const EtcdRegistration&) = delete;

  // Whoever watches tells that the key is gone, by change `revision`. Threads: any.
  void SeenGone(int64_t revision);

  bool registered() const { return registered_at_.load() > 0; }

 private:
  void Run();
  // Registers, and keeps it so until the lease is over, the key is gone, or the end.
  absl::Status Hold();
  absl::Status Claim(int64_t lease);

  const Options options_;
  EtcdClient& client_;
  Logger& log_;
  StopFlag stop_;
  std::atomic<int64_t> registered_at_{0};  // revision; 0 = not registered
  std::atomic<int64_t> gone_at_{0};        // newest revision at which the key was gone
  bool registered_before_ = false;         // of the thread, as the next
  bool answered_ = true;  // etcd, last time
  int64_t lease_ = 0;
  std::thread thread_;
};

}  // namespace stem
