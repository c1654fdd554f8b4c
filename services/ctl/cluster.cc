#include "services/ctl/cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kReadyPatience = absl::Seconds(60);  // a node allocates all its memory before it is ready
constexpr absl::Duration kReadyPoll = absl::Milliseconds(20);
constexpr absl::Duration kStopPatience = absl::Seconds(20);
constexpr char kAttachSuffix[] = ".attach";

absl::Status Failed(const std::string& what, const std::string& path, int error) {
  return absl::UnavailableError(absl::StrFormat("cannot %s %s: %s", what, path, std::strerror(error)));
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? Failed("make the folder", path, error.value()) : absl::OkStatus();
}

// One `up` or `down` in a folder at a time; a second is refused rather than queued. Ends with the descriptor.
absl::StatusOr<int> LockFolder(const std::string& dir) {
  const std::string path = dir + "/lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return Failed("write", path, errno);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(fd);
    return absl::FailedPreconditionError(absl::StrCat("another `stemctl cluster` command is at work in ", dir));
  }
  return fd;
}

absl::Status CheckSocketPath(const ClusterUpOptions& options) {
  const std::string longest = absl::StrCat(options.dir, "/node-", options.nodes, "/node.sock", kAttachSuffix);
  constexpr size_t kPathMax = sizeof(sockaddr_un::sun_path) - 1;
  if (longest.size() <= kPathMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--dir %s is %d bytes too long: %s must have at most %d for a Unix socket", options.dir,
                      longest.size() - kPathMax, longest, kPathMax));
}

// Kept from an earlier cluster in this folder: what lies on its SSDs is named under it.
absl::Status EnsureSecret(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno == EEXIST ? absl::OkStatus() : Failed("write", path, errno);
  const auto cleanup = absl::MakeCleanup([fd] { ::close(fd); });
  std::array<uint8_t, 32> secret;
  if (::getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size()) ||
      ::write(fd, secret.data(), secret.size()) != static_cast<ssize_t>(secret.size())) {
    const int error = errno;
    ::unlink(path.c_str());
    return Failed("write", path, error);
  }
  return absl::OkStatus();
}

std::vector<std::string> DirectoryCommand(const ClusterState& state, const std::string& binaries) {
  const std::string& listen = state.directory.listen;
  std::vector<std::string> command = {
      binaries + "/stem-directory", "--listen", listen.empty() ? "127.0.0.1:0" : listen, "--http", "127.0.0.1:0",
      "--secret-file", state.secret_path(), "--ready-file", state.ready_path(state.directory),
      "--log-format", "text"};
  if (state.admin) command.push_back("--admin");
  return command;
}

std::vector<std::string> NodeCommand(const ClusterState& state, const ClusterMember& node,
                                     const std::string& binaries) {
  std::vector<std::string> command = {
      binaries + "/stem-node", "--name", node.name, "--socket", node.socket, "--listen", "127.0.0.1:0",
      "--http", "127.0.0.1:0", "--directory", state.directory.listen, "--dram", FormatBytes(state.dram_bytes),
      "--policy", state.policy, "--admission", state.admission,
      "--secret-file", state.secret_path(), "--ready-file", state.ready_path(node), "--log-format", "text"};
  if (!state.map_host_peers) command.insert(command.end(), {"--map-host-peers", "false"});
  if (state.ssd_bytes > 0) {
    command.insert(command.end(),
                   {"--ssd", FormatBytes(state.ssd_bytes), "--ssd-dir", state.member_dir(node) + "/ssd"});
  }
  return command;
}

// Starts `member` and remembers it, so that even an `up` that is killed leaves nothing that `down` does not know.
absl::Status StartMember(ClusterState* state, ClusterMember* member, const std::vector<std::string>& command) {
  STEM_TRY(MakeFolder(state->member_dir(*member)));
  std::error_code ignored;
  fs::remove(state->ready_path(*member), ignored);
  std::ofstream(state->log_path(*member), std::ios::trunc);
  STEM_ASSIGN(member->process, StartDetached(command, state->log_path(*member)));
  return WriteClusterState(*state);
}

absl::Status ReadReadyFile(const ClusterState& state, ClusterMember* member) {
  std::ifstream file(state.ready_path(*member));
  std::stringstream text;
  text << file.rdbuf();
  const auto json = nlohmann::json::parse(text.str(), nullptr, false);
  const char* listen = member->name == state.directory.name ? "listen" : "peer";
  if (!json.is_object() || !json.contains(listen) || !json[listen].is_string()) {
    return absl::InternalError(absl::StrCat(state.ready_path(*member), " has no \"", listen, "\": ", text.str()));
  }
  member->listen = json[listen].get<std::string>();
  member->http = json.contains("http") && json["http"].is_string() ? json["http"].get<std::string>() : "";
  return absl::OkStatus();
}

absl::Status AwaitReady(const ClusterState& state, ClusterMember* member) {
  for (absl::Duration waited; waited < kReadyPatience; waited += kReadyPoll) {
    if (fs::exists(state.ready_path(*member))) return ReadReadyFile(state, member);
    if (!WaitForEnd(member->process, kReadyPoll)) continue;
    const std::string line = LastLine(state.log_path(*member));
    return absl::UnavailableError(absl::StrCat(member->name, " did not start: ",
                                               line.empty() ? "it ended without a word" : line));
  }
  return absl::UnavailableError(absl::StrFormat("%s was not ready within %s; its log is %s", member->name,
                                                absl::FormatDuration(kReadyPatience), state.log_path(*member)));
}

// Starts the members that are not running: the directory, then all nodes at once.
absl::Status StartMissing(ClusterState* state, const std::string& binaries) {
  if (!IsRunning(state->directory.process)) {
    STEM_TRY(StartMember(state, &state->directory, DirectoryCommand(*state, binaries)));
    STEM_TRY(AwaitReady(*state, &state->directory));
  }
  std::vector<ClusterMember*> started;
  for (ClusterMember& node : state->nodes) {
    if (IsRunning(node.process)) continue;
    STEM_TRY(StartMember(state, &node, NodeCommand(*state, node, binaries)));
    started.push_back(&node);
  }
  for (ClusterMember* node : started) STEM_TRY(AwaitReady(*state, node));
  return WriteClusterState(*state);
}

absl::StatusOr<ClusterDownResult> StopAll(const ClusterState& state) {
  ClusterDownResult result;
  std::vector<ProcessIdentity> running;
  const auto note = [&](const ClusterMember& member) {
    if (IsRunning(member.process)) {
      running.push_back(member.process);
    } else {
      ++result.not_running;
    }
  };
  for (const ClusterMember& node : state.nodes) note(node);
  for (const ProcessIdentity& node : running) Signal(node, SIGTERM).IgnoreError();  // all drain at once
  note(state.directory);
  for (const ProcessIdentity& process : running) {
    bool killed = false;
    STEM_TRY(Stop(process, kStopPatience, &killed));
    ++(killed ? result.killed : result.stopped);
  }
  return result;
}

bool AnyRunning(const ClusterState& state) {
  bool running = IsRunning(state.directory.process);
  for (const ClusterMember& node : state.nodes) running = running || IsRunning(node.process);
  return running;
}

}  // namespace

absl::StatusOr<ClusterState> ClusterUp(const ClusterUpOptions& asked) {
  ClusterUpOptions options = asked;
  STEM_TRY(MakeFolder(options.dir));
  options.dir = fs::canonical(options.dir).string();
  STEM_TRY(CheckSocketPath(options));
  STEM_TRY(MakeFolder(options.dir + "/logs"));
  STEM_ASSIGN(const int lock, LockFolder(options.dir));
  const auto cleanup = absl::MakeCleanup([lock] { ::close(lock); });

  const auto before = ReadClusterState(options.dir);
  if (!before.ok() && !absl::IsNotFound(before.status())) return before.status();
  if (before.ok() && AnyRunning(*before)) {
    return absl::FailedPreconditionError(absl::StrCat("a cluster is running in ", options.dir,
                                                      ": `stemctl cluster down --dir ", options.dir, "` stops it"));
  }
  STEM_TRY(EnsureSecret(options.dir + "/secret"));
  ClusterState state;
  state.dir = options.dir;
  state.dram_bytes = options.dram_bytes;
  state.ssd_bytes = options.ssd_bytes;
  state.policy = options.policy;
  state.admission = options.admission;
  state.admin = options.admin;
  state.map_host_peers = options.map_host_peers;
  state.directory.name = "directory";
  for (uint32_t i = 1; i <= options.nodes; ++i) {
    ClusterMember node;
    node.name = absl::StrCat("node-", i);
    node.socket = absl::StrCat(options.dir, "/", node.name, "/node.sock");
    state.nodes.push_back(node);
  }
  if (const absl::Status started = StartMissing(&state, options.binaries); !started.ok()) {
    const auto stopped = StopAll(state);
    return stopped.ok() ? started
                        : absl::UnavailableError(absl::StrCat(started.message(), "; ", stopped.status().message()));
  }
  return state;
}

absl::StatusOr<ClusterState> ClusterResume(const std::string& dir, const std::string& binaries) {
  STEM_ASSIGN(ClusterState state, ReadClusterState(dir));
  STEM_ASSIGN(const int lock, LockFolder(state.dir));
  const auto cleanup = absl::MakeCleanup([lock] { ::close(lock); });
  STEM_TRY(StartMissing(&state, binaries));
  return state;
}

absl::StatusOr<ClusterDownResult> ClusterDown(const std::string& dir) {
  STEM_ASSIGN(const ClusterState state, ReadClusterState(dir));
  STEM_ASSIGN(const int lock, LockFolder(state.dir));
  const auto cleanup = absl::MakeCleanup([lock] { ::close(lock); });
  return StopAll(state);
}

}  // namespace stem
