#include "services/ctl/machine_limits.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"
#include "storage/pool/arena.h"
#include "storage/pool/slot.h"

namespace stem {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSocketBufferBytes = 4 << 20;  // as the transport asks for

template <typename Copy>
double RateOf(size_t bytes, size_t block_bytes, Copy copy) {
  const Clock::time_point begin = Clock::now();
  for (size_t at = 0; at + block_bytes <= bytes; at += block_bytes) copy(at);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return static_cast<double>(bytes / block_bytes * block_bytes) / seconds;
}

absl::Status Failed(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("cannot measure TCP over loopback: ", what, ": ", strerror(errno)));
}

}  // namespace

double MemcpyRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes) {
  return RateOf(source.size(), block_bytes, [&](size_t at) {
    std::memcpy(target.data() + at, source.data() + at, block_bytes);
    asm volatile("" : : "r"(target.data()) : "memory");
  });
}

double StreamedCopyRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes) {
  return RateOf(source.size(), block_bytes,
                [&](size_t at) { CopyPayload(target.subspan(at, block_bytes), source.subspan(at, block_bytes)); });
}

absl::StatusOr<double> TcpRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes) {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd receiver(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!listener.valid() || !receiver.valid()) return Failed("socket");
  for (const int fd : {listener.get(), receiver.get()}) {
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kSocketBufferBytes, sizeof(kSocketBufferBytes));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSocketBufferBytes, sizeof(kSocketBufferBytes));
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  socklen_t size = sizeof(address);
  if (bind(listener.get(), generic, size) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), generic, &size) != 0 || connect(receiver.get(), generic, size) != 0) {
    return Failed("connect");
  }
  const UniqueFd sender(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!sender.valid()) return Failed("accept");
  const size_t bytes = source.size() / block_bytes * block_bytes;
  const Clock::time_point begin = Clock::now();
  std::thread sending([&] {
    for (size_t sent = 0; sent < bytes;) {
      const ssize_t count = send(sender.get(), source.data() + sent, std::min(block_bytes, bytes - sent), MSG_NOSIGNAL);
      if (count <= 0) break;
      sent += static_cast<size_t>(count);
    }
    shutdown(sender.get(), SHUT_WR);
  });
  size_t received = 0;
  while (received < bytes) {
    const ssize_t count = recv(receiver.get(), target.data() + received, bytes - received, 0);
    if (count <= 0) break;
    received += static_cast<size_t>(count);
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  shutdown(receiver.get(), SHUT_RDWR);  // ends a sender that is ahead of a receiver that gave up
  sending.join();
  if (received < bytes) return Failed("receive");
  return static_cast<double>(bytes) / seconds;
}

absl::StatusOr<double> DiskReadRate(const std::string& dir, size_t bytes, size_t block_bytes) {
  block_bytes = (block_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;  // what direct reads ask for
  const std::string path = absl::StrCat(dir, "/disk-limit");
  const auto failed = [&](absl::string_view what) {
    return absl::UnavailableError(absl::StrCat("cannot measure the disk under ", dir, ": ", what, ": ", strerror(errno)));
  };
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600));
  if (!file.valid()) return failed("open");
  unlink(path.c_str());
  const std::unique_ptr<void, decltype(&std::free)> block(std::aligned_alloc(kPageBytes, block_bytes), &std::free);
  if (block == nullptr) return failed("memory");
  std::memset(block.get(), 0xA5, block_bytes);
  std::vector<off_t> offsets;
  for (size_t at = 0; at + block_bytes <= bytes; at += block_bytes) {
    if (pwrite(file.get(), block.get(), block_bytes, static_cast<off_t>(at)) != static_cast<ssize_t>(block_bytes)) return failed("write");
    offsets.push_back(static_cast<off_t>(at));
  }
  if (fdatasync(file.get()) != 0) return failed("sync");
  std::shuffle(offsets.begin(), offsets.end(), std::minstd_rand(1));
  const Clock::time_point begin = Clock::now();
  for (const off_t at : offsets) {
    if (pread(file.get(), block.get(), block_bytes, at) != static_cast<ssize_t>(block_bytes)) return failed("read");
  }
  return static_cast<double>(offsets.size() * block_bytes) / std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace stem
