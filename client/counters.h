// What a client counts; shared by everything that may outlive it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace stem {

struct Counters {
  std::array<std::atomic<uint64_t>, 5> payloads_loaded = {};  // by v1::Source
  std::array<std::atomic<uint64_t>, 5> bytes_loaded = {};
  std::atomic<uint64_t> proofs_failed = 0;
  std::atomic<uint64_t> payloads_committed = 0;
  std::atomic<uint64_t> bytes_committed = 0;
  std::atomic<uint64_t> stems_broken = 0;
  std::atomic<uint64_t> reattaches = 0;
  std::atomic<uint64_t> messages_refused = 0;
};

}  // namespace stem
