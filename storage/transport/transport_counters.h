// What a transport counts while it runs; written by its threads, read by Stats() on any.
#pragma once

#include <atomic>
#include <cstdint>

#include "storage/transport/transport.h"

namespace stem {

struct TransportCounters {
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> reads_refused{0};
  std::atomic<uint64_t> ops_landed{0};
  std::atomic<uint64_t> ops_failed{0};
  std::atomic<uint64_t> ops_expired{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> bytes_served{0};
  std::atomic<uint64_t> serves_refused{0};
  std::atomic<uint64_t> endpoints_open{0};
  std::atomic<uint64_t> endpoints_lost{0};
  std::atomic<uint64_t> requesters_open{0};
  std::atomic<uint64_t> ops_queued{0};
  std::atomic<uint64_t> bytes_in_flight{0};

  TransportStats Snapshot() const {
    return {.reads = reads, .reads_refused = reads_refused, .ops_landed = ops_landed, .ops_failed = ops_failed,
            .ops_expired = ops_expired, .bytes_read = bytes_read, .bytes_served = bytes_served,
            .serves_refused = serves_refused, .endpoints_open = endpoints_open, .endpoints_lost = endpoints_lost,
            .requesters_open = requesters_open, .ops_queued = ops_queued, .bytes_in_flight = bytes_in_flight};
  }
};

}  // namespace stem
