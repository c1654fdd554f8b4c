// What a namespace's lossy spill encoding did: how much smaller, and how far from what was published. Figures that add up.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace stem {

// How far decoded values are from those that were encoded.
struct SpillError {
  double error_squares = 0;  // sum over all values
  double value_squares = 0;
  double largest = 0;  // of any error, as a share of the largest magnitude among the values that share its scale

  // Root mean square of the errors as a share of that of the values; 0 without values.
  double relative() const { return value_squares > 0 ? std::sqrt(error_squares / value_squares) : 0; }
  void Add(const SpillError& other) {
    error_squares += other.error_squares;
    value_squares += other.value_squares;
    largest = std::max(largest, other.largest);
  }
};

struct EncodedSpills {
  uint64_t payloads = 0;       // that were written encoded
  uint64_t payload_bytes = 0;  // of those
  uint64_t record_bytes = 0;   // that they have on the SSD
  uint64_t payloads_kept = 0;  // that were written as they are: not all of their values are finite
  uint64_t samples = 0;        // payloads that `error` is of
  SpillError error;

  void Add(const EncodedSpills& other) {
    payloads += other.payloads;
    payload_bytes += other.payload_bytes;
    record_bytes += other.record_bytes;
    payloads_kept += other.payloads_kept;
    samples += other.samples;
    error.Add(other.error);
  }
};

}  // namespace stem
