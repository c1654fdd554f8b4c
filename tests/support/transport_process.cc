#include "tests/support/transport_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/check.h"
#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "storage/transport/ucx_transport.h"
#include "tests/support/read_outcome.h"

extern char** environ;

namespace stem {
namespace {

constexpr absl::string_view kRoleFlag = "--transport-process";
constexpr int kFromParent = 3;  // descriptors of the child; not standard output, where UCX logs
constexpr int kToParent = 4;

uint64_t PatternWord(uint64_t seed, uint64_t index) {
  uint64_t x = index + seed * 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  return x ^ (x >> 29);
}

void WriteAll(int fd, const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t wrote = write(fd, at, bytes);
    STEM_CHECK(wrote > 0);
    at += wrote;
    bytes -= static_cast<size_t>(wrote);
  }
}

bool ReadAll(int fd, void* data, size_t bytes) {
  char* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = read(fd, at, bytes);
    if (got <= 0) return false;
    at += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

void WriteString(int fd, const std::string& text) {
  const uint64_t bytes = text.size();
  WriteAll(fd, &bytes, sizeof bytes);
  WriteAll(fd, text.data(), text.size());
}

bool ReadString(int fd, std::string& text) {
  uint64_t bytes = 0;
  if (!ReadAll(fd, &bytes, sizeof bytes)) return false;
  text.resize(bytes);
  return ReadAll(fd, text.data(), bytes);
}

void WriteMemory(int fd, const PeerMemory& memory) {
  WriteString(fd, memory.worker_address);
  WriteString(fd, memory.regions[0].rkey);
  const uint64_t numbers[3] = {memory.regions[0].base, memory.regions[0].bytes, memory.incarnation};
  WriteAll(fd, numbers, sizeof numbers);
}

bool ReadMemory(int fd, PeerMemory& memory) {
  memory.regions.resize(1);
  uint64_t numbers[3] = {};
  if (!ReadString(fd, memory.worker_address) || !ReadString(fd, memory.regions[0].rkey) ||
      !ReadAll(fd, numbers, sizeof numbers)) {
    return false;
  }
  memory.regions[0].base = numbers[0];
  memory.regions[0].bytes = numbers[1];
  memory.incarnation = numbers[2];
  return true;
}

std::span<std::byte> MapArena(size_t bytes) {
  const int fd = memfd_create("arena", MFD_CLOEXEC);
  STEM_CHECK(fd >= 0 && ftruncate(fd, static_cast<off_t>(bytes)) == 0);
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  STEM_CHECK(at != MAP_FAILED);
  close(fd);
  return {static_cast<std::byte*>(at), bytes};
}

std::unique_ptr<UcxTransport> MakeTransport(ReadPath path) {
  UcxTransport::Options options;
  options.ucx.read_path = path;
  auto transport = UcxTransport::Create(options);
  STEM_CHECK(transport.ok());
  return *std::move(transport);
}

int RunOwner(ReadPath path, size_t bytes, uint64_t seed) {
  const std::span<std::byte> arena = MapArena(bytes);
  FillPattern(arena, seed);
  const auto transport = MakeTransport(path);
  const auto registration = transport->Register(arena, MemoryPlace::kHost);
  STEM_CHECK(registration.ok());
  WriteMemory(kToParent, {.worker_address = transport->worker_address(),
                          .regions = {{.arena = 0, .base = reinterpret_cast<uint64_t>(arena.data()),
                                       .bytes = bytes, .rkey = (*registration)->rkey()}},
                          .incarnation = static_cast<uint64_t>(getpid())});
  char byte = 0;
  ReadAll(kFromParent, &byte, 1);  // until the parent goes
  return 0;
}

int RunReader() {
  PeerMemory memory;
  if (!ReadMemory(kFromParent, memory)) return 1;
  constexpr size_t kOps = 16;
  constexpr size_t kOpBytes = 1 << 20;
  const std::span<std::byte> destination = MapArena(kOps * kOpBytes);
  const auto transport = MakeTransport(ReadPath::kMessages);
  const auto registration = transport->Register(destination, MemoryPlace::kHost);
  const auto peer = transport->Connect(memory, absl::Now() + absl::Seconds(30));
  STEM_CHECK(registration.ok() && peer.ok());
  for (bool told = false;;) {
    std::vector<ReadOp> ops;
    for (size_t i = 0; i < kOps; ++i) {
      ops.push_back({.arena = 0, .offset = i * kOpBytes, .destination = destination.subspan(i * kOpBytes, kOpBytes),
                     .registration = registration->get()});
    }
    ReadOutcome outcome(ops.size());
    STEM_CHECK(transport->Read(*peer, std::move(ops), absl::Now() + absl::Seconds(30), outcome.callbacks()).ok());
    STEM_CHECK(outcome.WaitSafe().ok());
    if (!std::exchange(told, true)) WriteAll(kToParent, "r", 1);
  }
}

struct Spawned {
  pid_t pid;
  int to_child;
  int from_child;
};

absl::StatusOr<Spawned> Spawn(std::vector<std::string> arguments) {
  int down[2];
  int up[2];
  STEM_CHECK(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  // By way of high numbers, as the pipes' own may be 3 and 4.
  posix_spawn_file_actions_adddup2(&actions, down[0], 100);
  posix_spawn_file_actions_adddup2(&actions, up[1], 101);
  posix_spawn_file_actions_adddup2(&actions, 100, kFromParent);
  posix_spawn_file_actions_adddup2(&actions, 101, kToParent);
  posix_spawn_file_actions_addclose(&actions, 100);
  posix_spawn_file_actions_addclose(&actions, 101);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(down[0]);
  close(up[1]);
  if (error == 0) return Spawned{pid, down[1], up[0]};
  close(down[1]);
  close(up[0]);
  return absl::UnavailableError(absl::StrCat("posix_spawn: ", std::strerror(error)));
}

}  // namespace

void FillPattern(std::span<std::byte> memory, uint64_t seed) {
  for (size_t i = 0; i < memory.size() / 8; ++i) {
    const uint64_t word = PatternWord(seed, i);
    std::memcpy(memory.data() + i * 8, &word, 8);
  }
}

bool IsPattern(std::span<const std::byte> bytes, uint64_t seed, uint64_t offset) {
  STEM_CHECK(offset % 8 == 0);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t word = PatternWord(seed, (offset + i) / 8);
    if (std::memcmp(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i)) != 0) return false;
  }
  return true;
}

bool RunTransportProcess(int argc, char** argv, int& exit_code) {
  if (argc < 3 || argv[1] != kRoleFlag) return false;
  if (absl::string_view(argv[2]) == "reader") {
    exit_code = RunReader();
  } else {
    STEM_CHECK(argc == 6);
    const ReadPath path = absl::string_view(argv[3]) == "gets" ? ReadPath::kGets : ReadPath::kMessages;
    exit_code = RunOwner(path, std::strtoull(argv[4], nullptr, 10), std::strtoull(argv[5], nullptr, 10));
  }
  return true;
}

absl::StatusOr<std::unique_ptr<TransportProcess>> TransportProcess::StartOwner(ReadPath path, size_t bytes,
                                                                               uint64_t seed) {
  STEM_ASSIGN(const Spawned child, Spawn({"owner", std::string(kRoleFlag), "owner",
                                          path == ReadPath::kGets ? "gets" : "messages", std::to_string(bytes),
                                          std::to_string(seed)}));
  std::unique_ptr<TransportProcess> owner(new TransportProcess(child.pid, child.to_child));
  const bool told = ReadMemory(child.from_child, owner->memory_);
  close(child.from_child);
  if (!told) return absl::UnavailableError("the owner process ended before it was ready");
  return owner;
}

absl::StatusOr<std::unique_ptr<TransportProcess>> TransportProcess::StartReader(const PeerMemory& memory) {
  STEM_ASSIGN(const Spawned child, Spawn({"reader", std::string(kRoleFlag), "reader"}));
  std::unique_ptr<TransportProcess> reader(new TransportProcess(child.pid, child.to_child));
  WriteMemory(child.to_child, memory);
  char ready = 0;
  const bool told = ReadAll(child.from_child, &ready, 1);
  close(child.from_child);
  if (!told) return absl::UnavailableError("the reader process ended before its first read");
  return reader;
}

TransportProcess::~TransportProcess() {
  close(to_child_);
  if (pid_ > 0) Kill();
}

void TransportProcess::Stop() {
  int status = 0;
  STEM_CHECK(kill(pid_, SIGSTOP) == 0);
  STEM_CHECK(waitpid(pid_, &status, WUNTRACED) == pid_);
}

void TransportProcess::Continue() { STEM_CHECK(kill(pid_, SIGCONT) == 0); }

void TransportProcess::Kill() {
  int status = 0;
  STEM_CHECK(kill(pid_, SIGKILL) == 0);
  STEM_CHECK(waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
}

}  // namespace stem
