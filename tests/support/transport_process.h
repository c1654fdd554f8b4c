// A second process with a UCX transport of its own, for tests and benches that need one to stop or to kill. It is this
// binary started again: its main must call RunTransportProcess first.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "storage/transport/transport.h"
#include "storage/transport/ucx_context.h"

namespace stem {

// Byte i of an owner's memory, so that a reader can tell what must have come. Word i / 8 is a hash of its number.
void FillPattern(std::span<std::byte> memory, uint64_t seed);
// Whether `bytes`, read at `offset` of a memory filled with `seed`, are the pattern's. `offset` is a multiple of 8.
bool IsPattern(std::span<const std::byte> bytes, uint64_t seed, uint64_t offset);

// True when this process was started by TransportProcess; the caller then returns `exit_code` from main.
bool RunTransportProcess(int argc, char** argv, int& exit_code);

class TransportProcess {
 public:
  // Owns one arena, number 0, of `bytes`, filled with `seed`, until it is killed or this is destroyed.
  static absl::StatusOr<std::unique_ptr<TransportProcess>> StartOwner(ReadPath path, size_t bytes, uint64_t seed);
  // Reads `memory`'s arena 0 again and again, 16 ops of 1 MiB each time, until it is killed.
  static absl::StatusOr<std::unique_ptr<TransportProcess>> StartReader(const PeerMemory& memory);

  // Ends the process and waits for it.
  ~TransportProcess();
  TransportProcess(const TransportProcess&) = delete;
  TransportProcess& operator=(const TransportProcess&) = delete;

  // Of an owner; the incarnation is its process id.
  const PeerMemory& memory() const { return memory_; }
  // Returns once it has stopped, or died.
  void Stop();
  void Continue();
  void Kill();

 private:
  TransportProcess(pid_t pid, int to_child) : pid_(pid), to_child_(to_child) {}
  pid_t pid_;
  int to_child_;  // its closing ends an owner
  PeerMemory memory_;
};

}  // namespace stem
