#include "services/ctl/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace stem {
namespace {

constexpr absl::Duration kKillPatience = absl::Seconds(10);

// What proc(5) says in /proc/PID/stat, from the state on, which is its field 3; empty when there is no such process.
std::vector<std::string> StatOf(pid_t pid) {
  std::ifstream file(absl::StrFormat("/proc/%d/stat", pid));
  std::stringstream text;
  text << file.rdbuf();
  // "pid (name) S ppid ...": the name may hold blanks and brackets, so count from its last bracket.
  const std::string line = text.str();
  const size_t bracket = line.rfind(") ");
  if (bracket == line.npos) return {};
  return absl::StrSplit(line.substr(bracket + 2), ' ');
}

constexpr size_t kUserTicksField = 14 - 3;
constexpr size_t kSystemTicksField = 15 - 3;
constexpr size_t kStartField = 22 - 3;

// State letter and start time of `pid`; false when there is no such process.
bool ReadStat(pid_t pid, char* state, uint64_t* start_ticks) {
  const std::vector<std::string> fields = StatOf(pid);
  if (fields.size() <= kStartField || fields[0].size() != 1) return false;
  *state = fields[0][0];
  return absl::SimpleAtoi(fields[kStartField], start_ticks);
}

// A descriptor that means this process and no later one, or -1 when it has ended.
int OpenProcess(const ProcessIdentity& process) {
  if (process.pid <= 0) return -1;
  const int fd = static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0));
  if (fd >= 0 && !IsRunning(process)) {
    ::close(fd);
    return -1;
  }
  return fd;
}

// A child that has ended stays until it is waited for; of others this knows nothing and says so harmlessly.
void Reap(pid_t pid) { ::waitpid(pid, nullptr, WNOHANG); }

}  // namespace

absl::StatusOr<ProcessIdentity> StartDetached(const std::vector<std::string>& command, const std::string& log_path) {
  const int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return absl::UnavailableError(absl::StrFormat("cannot write %s: %s", log_path, std::strerror(errno)));
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  const auto cleanup = absl::MakeCleanup([&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    ::close(log);
  });
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, log, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);  // pipes of ours would stay open with it
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);

  std::vector<char*> arguments;
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ProcessIdentity process;
  const int error = posix_spawn(&process.pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  if (error != 0) {
    return absl::UnavailableError(absl::StrFormat("cannot start %s: %s", command[0], std::strerror(error)));
  }
  char state = 0;
  if (!ReadStat(process.pid, &state, &process.start_ticks)) {
    return absl::UnavailableError(absl::StrFormat("%s ended at once", command[0]));
  }
  return process;
}

bool IsRunning(const ProcessIdentity& process) {
  char state = 0;
  uint64_t start_ticks = 0;
  if (process.pid <= 0 || !ReadStat(process.pid, &state, &start_ticks)) return false;
  return start_ticks == process.start_ticks && state != 'Z' && state != 'X';
}

bool WaitForEnd(const ProcessIdentity& process, absl::Duration timeout) {
  const int fd = OpenProcess(process);
  if (fd < 0) return !IsRunning(process);
  const auto cleanup = absl::MakeCleanup([fd] { ::close(fd); });
  const absl::Time end = absl::Now() + timeout;
  for (;;) {
    pollfd entry{fd, POLLIN, 0};
    const absl::Duration left = std::max(end - absl::Now(), absl::ZeroDuration());
    const int ready = ::poll(&entry, 1, static_cast<int>(absl::ToInt64Milliseconds(left)));
    if (ready > 0) {
      Reap(process.pid);
      return true;
    }
    if (ready == 0) return false;
    if (errno != EINTR) return !IsRunning(process);
  }
}

absl::Status Signal(const ProcessIdentity& process, int signal) {
  const int fd = OpenProcess(process);
  if (fd < 0) return absl::NotFoundError(absl::StrFormat("process %d has ended", process.pid));
  const auto cleanup = absl::MakeCleanup([fd] { ::close(fd); });
  if (::syscall(SYS_pidfd_send_signal, fd, signal, nullptr, 0) == 0) return absl::OkStatus();
  if (errno == ESRCH) return absl::NotFoundError(absl::StrFormat("process %d has ended", process.pid));
  return absl::PermissionDeniedError(
      absl::StrFormat("cannot signal process %d: %s", process.pid, std::strerror(errno)));
}

absl::Status Stop(const ProcessIdentity& process, absl::Duration patience, bool* killed) {
  if (killed != nullptr) *killed = false;
  for (const int signal : {SIGTERM, SIGKILL}) {
    if (const absl::Status sent = Signal(process, signal); !sent.ok()) {
      return absl::IsNotFound(sent) ? absl::OkStatus() : sent;
    }
    if (signal == SIGKILL && killed != nullptr) *killed = true;
    if (WaitForEnd(process, signal == SIGTERM ? patience : kKillPatience)) return absl::OkStatus();
  }
  return absl::DeadlineExceededError(absl::StrFormat("process %d is still there after SIGKILL", process.pid));
}

double CpuSeconds(const ProcessIdentity& process) {
  const std::vector<std::string> fields = IsRunning(process) ? StatOf(process.pid) : std::vector<std::string>();
  uint64_t user = 0, system = 0;
  if (fields.size() <= kSystemTicksField || !absl::SimpleAtoi(fields[kUserTicksField], &user) ||
      !absl::SimpleAtoi(fields[kSystemTicksField], &system)) {
    return 0;
  }
  return static_cast<double>(user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

uint64_t UnenteredBytes(pid_t pid, const std::string& prefix) {
  std::ifstream file(absl::StrFormat("/proc/%d/smaps", pid));
  uint64_t bytes = 0;
  bool named = false;
  for (std::string line; std::getline(file, line);) {
    // A mapping's first line ends with its file's name; lines like "Rss:  12 kB" follow.
    uint64_t kib = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() != 3 || words[2] != "kB") named = absl::StrContains(line, "/memfd:" + prefix);
    if (!named || words.size() != 3 || !absl::SimpleAtoi(words[1], &kib)) continue;
    if (words[0] == "Size:") bytes += kib << 10;
    if (words[0] == "Rss:") bytes -= kib << 10;
  }
  return bytes;
}

std::string LastLine(const std::string& path) {
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (line.find_first_not_of(" \t\r") != line.npos) last = line;
  }
  return last;
}

}  // namespace stem
