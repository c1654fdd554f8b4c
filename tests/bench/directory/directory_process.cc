#include "tests/bench/directory/directory_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "nlohmann/json.hpp"
#include "proto/check.h"
#include "proto/validate.h"

namespace stem::bench {
namespace {

constexpr char kSecret[] = "a secret for benches, not a secret at all";

}  // namespace

DirectoryProcess::DirectoryProcess(const std::string& binary, const std::string& folder, uint32_t heartbeat_ms,
                                   uint32_t stale_ms_max)
    : binary_(binary), folder_(folder), heartbeat_ms_(heartbeat_ms), stale_ms_max_(stale_ms_max) {
  std::filesystem::create_directories(folder_);
  std::ofstream(folder_ + "/secret") << kSecret;
  chmod((folder_ + "/secret").c_str(), 0600);
}

DirectoryProcess::~DirectoryProcess() {
  if (running()) Kill();
}

void DirectoryProcess::Start() {
  STEM_CHECK(!running());
  const std::string ready = folder_ + "/ready", log = folder_ + "/log";
  std::filesystem::remove(ready);
  const std::vector<std::string> words = {binary_,
                                          "--listen",
                                          address_,
                                          "--http",
                                          "127.0.0.1:0",
                                          "--secret-file",
                                          folder_ + "/secret",
                                          "--ready-file",
                                          ready,
                                          "--heartbeat-ms",
                                          absl::StrCat(heartbeat_ms_),
                                          "--stale-ms-max",
                                          absl::StrCat(stale_ms_max_),
                                          "--log-level",
                                          "warn"};
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_ = vfork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(out, 1);
    dup2(out, 2);
    execv(binary_.c_str(), arguments.data());
    _exit(127);
  }
  for (int i = 0; !std::filesystem::exists(ready); ++i) {
    if (i > 3000 || waitpid(pid_, nullptr, WNOHANG) != 0) {
      std::fprintf(stderr, "%s does not start; see %s\n", binary_.c_str(), log.c_str());
      std::abort();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::ifstream file(ready);
  address_ = nlohmann::json::parse(file)["listen"];
}

void DirectoryProcess::Kill() {
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = 0;
}

ClusterSecret BenchSecret() {
  return *ClusterSecret::FromBytes(std::vector<uint8_t>(kSecret, kSecret + sizeof(kSecret) - 1));
}

std::shared_ptr<grpc::Channel> OwnChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace stem::bench
