// A real etcd of one member on this machine, for tests: started, killed, stopped and brought back with its data. What tests write
// goes through etcd's own JSON gateway, as an operator's tool would write it, so that both sides of our client are checked.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "nlohmann/json_fwd.hpp"
#include "tests/support/temp_directory.h"

namespace stem {

class EtcdProcess {
 public:
  // Null with a reason on standard output when there is no etcd here.
  static bool Available();

  // Starts and waits until it answers; a failed start ends the test process.
  EtcdProcess();
  ~EtcdProcess();
  EtcdProcess(const EtcdProcess&) = delete;
  EtcdProcess& operator=(const EtcdProcess&) = delete;

  std::string endpoint() const;

  void Kill();     // SIGKILL
  void Restart();  // on the same ports; with its data
  void RestartElsewhere();  // where only this object finds it; with its data
  void Wipe();     // when it is not running: its data
  void Pause();    // SIGSTOP
  void Resume();

  void Put(const std::string& key, const std::string& value);
  void Delete(const std::string& key);
  std::optional<std::string> Get(const std::string& key);
  int64_t revision();
  // Forgets all changes before the newest.
  void Compact();

 private:
  bool Start();
  nlohmann::json Post(const std::string& path, const nlohmann::json& body);

  TempDirectory directory_;
  uint16_t home_port_ = 0;    // where clients find it
  uint16_t client_port_ = 0;  // where it is
  uint16_t peer_port_ = 0;
  pid_t pid_ = 0;
};

}  // namespace stem
