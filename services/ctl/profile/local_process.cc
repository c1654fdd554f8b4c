#include "services/ctl/profile/local_process.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace stem::profile {
namespace {

namespace fs = std::filesystem;

std::string Read(const fs::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// proc(5): the socket's inode of a listener on `port`, "" = none.
std::string ListenerInode(const char* table, int port) {
  constexpr absl::string_view kListen = "0A";
  const std::string wanted = fmt::format(":{:04X}", port);
  for (const absl::string_view line : absl::StrSplit(Read(table), '\n')) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (fields.size() > 9 && absl::EndsWith(fields[1], wanted) && fields[3] == kListen) return std::string(fields[9]);
  }
  return "";
}

std::vector<pid_t> AllProcesses() {
  std::vector<pid_t> all;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    pid_t pid = 0;
    if (absl::SimpleAtoi(entry.path().filename().string(), &pid)) all.push_back(pid);
  }
  return all;
}

bool HasSocket(pid_t pid, const std::string& inode) {
  const std::string wanted = fmt::format("socket:[{}]", inode);
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), error)) {
    std::error_code gone;
    if (fs::read_symlink(entry.path(), gone) == wanted) return true;
  }
  return false;
}

// proc(5), stat: after the name in brackets come the state and the parent.
pid_t ParentOf(pid_t pid) {
  const std::string stat = Read(fmt::format("/proc/{}/stat", pid));
  const size_t bracket = stat.rfind(')');
  if (bracket == std::string::npos) return 0;
  const std::vector<absl::string_view> fields = absl::StrSplit(absl::string_view(stat).substr(bracket + 1), ' ', absl::SkipEmpty());
  pid_t parent = 0;
  return fields.size() > 1 && absl::SimpleAtoi(fields[1], &parent) ? parent : 0;
}

}  // namespace

std::optional<pid_t> ListenerOf(int port) {
  std::string inode = ListenerInode("/proc/net/tcp", port);
  if (inode.empty()) inode = ListenerInode("/proc/net/tcp6", port);
  if (inode.empty()) return std::nullopt;
  for (const pid_t pid : AllProcesses()) {
    if (HasSocket(pid, inode)) return pid;
  }
  return std::nullopt;
}

uint64_t ResidentBytes(pid_t pid) {
  std::multimap<pid_t, pid_t> children;
  for (const pid_t each : AllProcesses()) children.emplace(ParentOf(each), each);
  std::vector<pid_t> tree = {pid};
  uint64_t pages = 0;
  for (size_t i = 0; i < tree.size(); ++i) {
    const std::vector<std::string> fields = absl::StrSplit(Read(fmt::format("/proc/{}/statm", tree[i])), ' ');
    uint64_t resident = 0;
    if (fields.size() > 1 && absl::SimpleAtoi(fields[1], &resident)) pages += resident;
    for (auto [at, end] = children.equal_range(tree[i]); at != end; ++at) tree.push_back(at->second);
  }
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

std::string CommandLine(pid_t pid) {
  std::string text = Read(fmt::format("/proc/{}/cmdline", pid));
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return absl::StrReplaceAll(text, {{absl::string_view("\0", 1), " "}});
}

std::string Hardware() {
  std::string model = "unknown processor";
  for (const absl::string_view line : absl::StrSplit(Read("/proc/cpuinfo"), '\n')) {
    if (!absl::StartsWith(line, "model name")) continue;
    model = std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    break;
  }
  const double gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1 << 30);
  std::string text = fmt::format("{}, {} processors, {:.0f} GiB", model, std::thread::hardware_concurrency(), gib);
  const std::string driver = Read("/proc/driver/nvidia/version");
  if (!driver.empty()) text += fmt::format(", {}", driver.substr(0, driver.find('\n')));
  return text;
}

}  // namespace stem::profile
