#include "tests/support/etcd_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "proto/check.h"

namespace stem {
namespace {

using nlohmann::json;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr int kStartsMax = 10;

// etcd cannot be told "any port". Below the range from which the kernel serves port 0 and outgoing connections, so that nothing
// takes it while etcd is down for a moment.
uint16_t FreePort() {
  std::random_device random;
  while (true) {
    const auto port = static_cast<uint16_t>(15000 + random() % 15000);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    const bool free = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) return port;
  }
}

std::string Encoded(const std::string& text) {
  std::string out;
  absl::Base64Escape(text, &out);
  return out;
}

std::string Decoded(const std::string& text) {
  std::string out;
  STEM_CHECK(absl::Base64Unescape(text, &out));
  return out;
}

}  // namespace

bool EtcdProcess::Available() { return access(STEM_ETCD, X_OK) == 0; }

EtcdProcess::EtcdProcess() {
  for (int i = 0; i < kStartsMax; ++i) {
    client_port_ = home_port_ = FreePort();
    peer_port_ = FreePort();
    if (Start()) return;
    Wipe();  // someone else took a port in the meantime: the data names it
  }
  std::ifstream log(directory_.path() + "/log");
  std::fprintf(stderr, "etcd does not start:\n%s\n", std::string((std::istreambuf_iterator<char>(log)), {}).c_str());
  std::abort();
}

EtcdProcess::~EtcdProcess() { Kill(); }

std::string EtcdProcess::endpoint() const { return absl::StrCat("127.0.0.1:", home_port_); }

bool EtcdProcess::Start() {
  const std::string client = absl::StrCat("http://127.0.0.1:", client_port_);
  const std::string peer = absl::StrCat("http://127.0.0.1:", peer_port_);
  // Ten times the usual pace, so that the shortest lease is one second.
  std::vector<std::string> words = {STEM_ETCD, "--name", "test", "--data-dir", directory_.path() + "/data",
                                    "--listen-client-urls", client, "--advertise-client-urls", client,
                                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                                    "--initial-cluster", absl::StrCat("test=", peer), "--log-level", "error",
                                    "--heartbeat-interval", "10", "--election-timeout", "100"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int log = open((directory_.path() + "/log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  STEM_CHECK(log >= 0);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // never outlives a test that crashes
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execv(STEM_ETCD, arguments.data());
    _exit(127);
  }
  close(log);
  STEM_CHECK(pid_ > 0);
  httplib::Client http("127.0.0.1", client_port_);
  http.set_connection_timeout(1);
  http.set_read_timeout(2);
  for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end; absl::SleepFor(absl::Milliseconds(5))) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = 0;
      return false;
    }
    const auto health = http.Get("/health");
    if (health && health->body.find("\"true\"") != std::string::npos) return true;
  }
  Kill();
  return false;
}

void EtcdProcess::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

void EtcdProcess::Restart() {
  STEM_CHECK(pid_ == 0);
  client_port_ = home_port_;
  STEM_CHECK(Start());
}

void EtcdProcess::RestartElsewhere() {
  STEM_CHECK(pid_ == 0);
  client_port_ = FreePort();
  STEM_CHECK(Start());
}

void EtcdProcess::Wipe() {
  STEM_CHECK(pid_ == 0);
  std::filesystem::remove_all(directory_.path() + "/data");
}

void EtcdProcess::Pause() {
  kill(pid_, SIGSTOP);
  waitpid(pid_, nullptr, WUNTRACED);  // until it has
}

void EtcdProcess::Resume() { kill(pid_, SIGCONT); }

json EtcdProcess::Post(const std::string& path, const json& body) {
  httplib::Client http("127.0.0.1", client_port_);
  http.set_read_timeout(30);
  const auto reply = http.Post(path.c_str(), body.dump(), "application/json");
  STEM_CHECK(reply && reply->status == 200);
  return json::parse(reply->body);
}

void EtcdProcess::Put(const std::string& key, const std::string& value) {
  Post("/v3/kv/put", {{"key", Encoded(key)}, {"value", Encoded(value)}});
}

void EtcdProcess::Delete(const std::string& key) { Post("/v3/kv/deleterange", {{"key", Encoded(key)}}); }

std::optional<std::string> EtcdProcess::Get(const std::string& key) {
  const json reply = Post("/v3/kv/range", {{"key", Encoded(key)}});
  if (!reply.contains("kvs")) return std::nullopt;
  return Decoded(reply["kvs"][0].value("value", ""));
}

int64_t EtcdProcess::revision() {
  const json reply = Post("/v3/kv/range", {{"key", Encoded("none")}});
  return std::stoll(reply["header"]["revision"].get<std::string>());
}

void EtcdProcess::Compact() { Post("/v3/kv/compaction", {{"revision", std::to_string(revision())}, {"physical", true}}); }

}  // namespace stem
