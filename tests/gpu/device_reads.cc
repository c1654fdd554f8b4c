// Two processes on one GPU: blocks go from the memory of one into the memory of the other through storage/transport, by
// one-sided gets (UCX's cuda_ipc) and staged by messages, out of ordinary GPU memory and out of a DeviceArena; each block is proved
// on the GPU. And a DeviceArena that outlives the process that made it. Needs a UCX that moves GPU memory: run.sh --ucx.
// Usage: device_reads OUT.json   Exit: 0 all is right, 1 not, 3 no GPU, or a UCX without CUDA.
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "kernels/checksum.h"
#include "kernels/device.h"
#include "kernels/device_arena.h"
#include "nlohmann/json.hpp"
#include "proto/check.h"
#include "proto/status.h"
#include "storage/pool/fd_socket.h"
#include "storage/transport/ucx_transport.h"
#include "tests/gpu/on_gpu.h"
#include "tests/support/read_outcome.h"
#include "tests/support/transport_process.h"

extern char** environ;

namespace stem {
namespace {

using gpu::Must;

constexpr int kGpu = 0;
constexpr size_t kBlockBytes = 2 << 20;
constexpr size_t kBlocks = 64;
constexpr size_t kBytes = kBlocks * kBlockBytes;
constexpr int kRounds = 5;
constexpr uint64_t kSeed = 17;
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::string_view kOwnerFlag = "--owner";
constexpr int kToParent = 3;  // the owner's descriptor

struct Case {
  absl::string_view name;
  bool arena;           // a DeviceArena, else cudaMalloc
  ReadPath path;
  bool must_work;       // false: what UCX says to it is a finding
};
constexpr Case kCases[] = {{"gets", false, ReadPath::kGets, true},
                           {"messages", false, ReadPath::kMessages, true},
                           {"arena_messages", true, ReadPath::kMessages, true},
                           {"arena_gets", true, ReadPath::kGets, false}};  // cuda_ipc takes shared memory of a fabric only, in UCX 1.22

class GpuMemory {
 public:
  static absl::StatusOr<GpuMemory> Make(bool arena) {
    GpuMemory memory;
    if (arena) {
      STEM_ASSIGN(memory.arena_, DeviceArena::Create(kGpu, kBytes));
    } else {
      STEM_ASSIGN(memory.buffer_, DeviceBuffer::Allocate(kBytes));
    }
    return memory;
  }
  std::span<std::byte> bytes() const { return (arena_ ? arena_->bytes() : buffer_->bytes()).first(kBytes); }
  const DeviceArena* arena() const { return arena_ ? &*arena_ : nullptr; }

 private:
  std::optional<DeviceArena> arena_;
  std::optional<DeviceBuffer> buffer_;
};

absl::StatusOr<std::unique_ptr<UcxTransport>> MakeTransport(ReadPath path) {
  Must(cudaSetDevice(kGpu), "cudaSetDevice");  // UCX opens its lanes on this thread
  UcxTransport::Options options;
  options.ucx.gpu = true;
  options.ucx.read_path = path;
  options.on_thread_start = [] { Must(cudaSetDevice(kGpu), "cudaSetDevice"); };
  return UcxTransport::Create(options);
}

BlockName NameOf(size_t block) {
  BlockName name;
  name.key.low = block;
  return name;
}

// By the twin, of the pattern that the owner's memory holds.
std::vector<uint64_t> ExpectedDigests() {
  std::vector<std::byte> pattern(kBytes);
  FillPattern(pattern, kSeed);
  std::vector<uint64_t> chunks(ChunkCount(kBlockBytes));
  std::vector<uint64_t> digests;
  for (size_t i = 0; i < kBlocks; ++i) {
    digests.push_back(Digest(NameOf(i), std::span(pattern).subspan(i * kBlockBytes, kBlockBytes), chunks));
  }
  return digests;
}

// How many blocks of `memory`, on the GPU, are other than they should be.
absl::StatusOr<size_t> WrongBlocks(std::span<const std::byte> memory, std::span<const uint64_t> expected, const Stream& stream) {
  const size_t words = DigestMessageWords(kBlockBytes);
  STEM_ASSIGN(const DeviceBuffer message, DeviceBuffer::Allocate(words * sizeof(uint64_t)));
  STEM_ASSIGN(const PinnedBuffer digests, PinnedBuffer::Allocate(kBlocks * sizeof(uint64_t)));
  auto* const found = reinterpret_cast<uint64_t*>(digests.bytes().data());
  for (size_t i = 0; i < kBlocks; ++i) {
    STEM_TRY(Digest(NameOf(i), memory.subspan(i * kBlockBytes, kBlockBytes),
                    {.message = {reinterpret_cast<uint64_t*>(message.bytes().data()), words}, .digest = found + i}, stream));
  }
  STEM_TRY(stream.Synchronize());
  size_t wrong = 0;
  for (size_t i = 0; i < kBlocks; ++i) wrong += found[i] != expected[i] ? 1 : 0;
  return wrong;
}

// The owner: offers its memory to the process that started it, until that is gone.
absl::Status RunOwner(const Case& offered) {
  STEM_ASSIGN(const Stream stream, Stream::Create());
  STEM_ASSIGN(const GpuMemory memory, GpuMemory::Make(offered.arena));
  std::vector<std::byte> pattern(kBytes);
  FillPattern(pattern, kSeed);
  STEM_TRY(stream.Copy(memory.bytes(), pattern));
  STEM_TRY(stream.Synchronize());
  STEM_ASSIGN(const auto transport, MakeTransport(offered.path));
  STEM_ASSIGN(const auto registration, transport->Register(memory.bytes(), MemoryPlace::kGpu));
  const std::string offer = absl::StrCat(absl::BytesToHexString(transport->worker_address()), " ",
                                         absl::BytesToHexString(registration->rkey()), " ",
                                         reinterpret_cast<uint64_t>(memory.bytes().data()));
  std::vector<int> fds;
  if (memory.arena() != nullptr) {
    STEM_ASSIGN(fds.emplace_back(), memory.arena()->Export());
  }
  STEM_TRY(SendFdPacket(kToParent, offer, fds));
  char byte = 0;
  while (read(kToParent, &byte, 1) > 0) {
  }
  return absl::OkStatus();
}

// An owner in a process of its own, and what it offers.
class Owner {
 public:
  static absl::StatusOr<std::unique_ptr<Owner>> Start(const Case& offered) {
    int sockets[2];
    STEM_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, sockets[1], kToParent);
    std::string words[] = {"device_reads", std::string(kOwnerFlag), std::string(offered.name)};
    char* argv[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
    std::unique_ptr<Owner> owner(new Owner());
    owner->socket_ = UniqueFd(sockets[0]);
    const int error = posix_spawn(&owner->pid_, "/proc/self/exe", &actions, nullptr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(sockets[1]);
    if (error != 0) return absl::UnavailableError(absl::StrCat("posix_spawn: error ", error));
    const absl::Time until = absl::Now() + kPatience;
    STEM_ASSIGN(owner->packet_, ReceiveFdPacket(sockets[0], 1 << 16, 1, [&] { return until - absl::Now(); }));
    return owner;
  }
  ~Owner() { Kill(); }

  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  PeerMemory memory() const {
    const std::vector<std::string> words = absl::StrSplit(packet_.bytes, ' ');
    uint64_t base = 0;
    STEM_CHECK(words.size() == 3 && absl::SimpleAtoi(words[2], &base));
    return {.worker_address = absl::HexStringToBytes(words[0]),
            .regions = {{.arena = 0, .base = base, .bytes = kBytes, .rkey = absl::HexStringToBytes(words[1])}},
            .incarnation = 1};
  }
  int exported() const { return packet_.fds.at(0).get(); }

 private:
  Owner() = default;
  pid_t pid_ = 0;
  UniqueFd socket_;
  FdPacket packet_;
};

double GigabytesPerSecond(std::vector<absl::Duration> rounds) {
  std::nth_element(rounds.begin(), rounds.begin() + rounds.size() / 2, rounds.end());
  return static_cast<double>(kBytes) / absl::ToDoubleSeconds(rounds[rounds.size() / 2]) / 1e9;
}

// Reads all blocks again and again into memory that is cleared before; the transport as it says what it is, wrong blocks, speed.
absl::Status ReadBlocks(const Case& read, const Owner& owner, const Stream& stream, std::span<const uint64_t> expected,
                        nlohmann::json& found) {
  STEM_ASSIGN(const GpuMemory memory, GpuMemory::Make(read.arena));
  STEM_ASSIGN(const auto transport, MakeTransport(read.path));
  found["transport"] = transport->description();
  STEM_ASSIGN(const auto registration, transport->Register(memory.bytes(), MemoryPlace::kGpu));
  STEM_ASSIGN(const auto peer, transport->Connect(owner.memory(), absl::Now() + kPatience));
  std::vector<absl::Duration> rounds;
  size_t wrong = 0;
  for (int round = 0; round <= kRounds; ++round) {  // the first connects
    Must(cudaMemsetAsync(memory.bytes().data(), 0, kBytes, stream.handle()), "cudaMemsetAsync");
    STEM_TRY(stream.Synchronize());
    std::vector<ReadOp> ops;
    for (size_t i = 0; i < kBlocks; ++i) {
      ops.push_back({.arena = 0, .offset = i * kBlockBytes, .destination = memory.bytes().subspan(i * kBlockBytes, kBlockBytes),
                     .registration = registration.get()});
    }
    ReadOutcome outcome(ops.size());
    ReadCallbacks callbacks = outcome.callbacks();
    callbacks.land = [&stream](size_t, std::span<std::byte> to, std::span<const std::byte> from) {
      STEM_CHECK(stream.Copy(to, from).ok() && stream.Synchronize().ok());
    };
    const absl::Time begin = absl::Now();
    STEM_TRY(transport->Read(peer, std::move(ops), begin + kPatience, std::move(callbacks)));
    STEM_TRY(outcome.WaitSafe());
    if (round > 0) rounds.push_back(absl::Now() - begin);
    STEM_ASSIGN(const size_t wrong_now, WrongBlocks(memory.bytes(), expected, stream));
    wrong += wrong_now;
  }
  transport->Close();
  found["wrong_blocks"] = wrong;
  found["GB_per_s"] = GigabytesPerSecond(rounds);
  return wrong == 0 ? absl::OkStatus() : absl::DataLossError(absl::StrCat(wrong, " wrong blocks"));
}

// The arena's memory is still there, and still right, when the process that made it is dead.
absl::Status OutliveOwner(Owner& owner, const Stream& stream, std::span<const uint64_t> expected) {
  STEM_ASSIGN(const DeviceArena imported, DeviceArena::Import(kGpu, owner.exported(), kBytes));
  owner.Kill();
  STEM_ASSIGN(const size_t wrong, WrongBlocks(imported.bytes(), expected, stream));
  return wrong == 0 ? absl::OkStatus() : absl::DataLossError(absl::StrCat(wrong, " wrong blocks after the owner's death"));
}

absl::StatusOr<double> CopySpeed(const Stream& stream) {
  STEM_ASSIGN(const DeviceBuffer from, DeviceBuffer::Allocate(kBytes));
  STEM_ASSIGN(const DeviceBuffer to, DeviceBuffer::Allocate(kBytes));
  std::vector<absl::Duration> rounds;
  for (int round = 0; round <= kRounds; ++round) {
    const absl::Time begin = absl::Now();
    STEM_TRY(stream.Copy(to.bytes(), from.bytes()));
    STEM_TRY(stream.Synchronize());
    if (round > 0) rounds.push_back(absl::Now() - begin);
  }
  return GigabytesPerSecond(rounds);
}

bool UcxMovesGpuMemory() {
  const auto ucx = ConfigureUcx({.gpu = true});
  if (ucx.ok() && ucx->moves_gpu_memory()) return true;
  std::printf("%s\n", ucx.ok() ? ucx->description.c_str() : std::string(ucx.status().message()).c_str());
  return false;
}

absl::StatusOr<bool> RunAll(nlohmann::json& report) {
  STEM_ASSIGN(const Stream stream, Stream::Create());
  STEM_ASSIGN(const double copy, CopySpeed(stream));
  report["cudaMemcpy_GB_per_s"] = copy;
  report["block_bytes"] = kBlockBytes;
  report["blocks"] = kBlocks;
  const std::vector<uint64_t> expected = ExpectedDigests();
  bool right = true;
  const auto note = [&](nlohmann::json& found, const absl::Status& status, bool must_work) {
    found["status"] = status.ToString();
    right &= status.ok() || (!must_work && !absl::IsDataLoss(status));
  };
  for (const Case& each : kCases) {
    nlohmann::json& found = report["reads"][std::string(each.name)];
    const auto owner = Owner::Start(each);
    note(found, owner.ok() ? ReadBlocks(each, **owner, stream, expected, found) : owner.status(), each.must_work);
    if (!each.arena || each.path != ReadPath::kMessages || !owner.ok()) continue;
    note(report["arena_outlives_its_maker"], OutliveOwner(**owner, stream, expected), true);
  }
  return right;
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) {
  using namespace stem;
  if (argc == 3 && argv[1] == kOwnerFlag) {
    const auto* offered = std::find_if(std::begin(kCases), std::end(kCases), [&](const Case& each) { return each.name == argv[2]; });
    if (offered == std::end(kCases)) return 2;
    const absl::Status ran = RunOwner(*offered);
    if (!ran.ok()) std::fprintf(stderr, "owner of %s: %s\n", argv[2], ran.ToString().c_str());
    return ran.ok() ? 0 : 1;
  }
  if (argc != 2) {
    std::fprintf(stderr, "usage: device_reads OUT.json\n");
    return 2;
  }
  if (!cuda_available()) {
    std::printf("no CUDA device\n");
    return 3;
  }
  Must(cudaSetDevice(kGpu), "cudaSetDevice");
  if (!UcxMovesGpuMemory()) return 3;
  nlohmann::json report;
  const absl::StatusOr<bool> right = RunAll(report);
  if (!right.ok()) report["failed"] = right.status().ToString();
  std::printf("%s\n", report.dump(2).c_str());
  std::ofstream(argv[1]) << report.dump(2) << "\n";
  return right.ok() && *right ? 0 : 1;
}
