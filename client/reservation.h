// Reservation: the right to publish some blocks of a chain, with the memory to write them to; from Reserve to Commit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace stem {

struct ReservationState;

// A block, or one part of it, that the node wants.
struct WantedPayload {
  uint32_t position = 0;         // block * parts asked + index of the part in the request
  uint32_t block = 0;            // index in the Reserve's keys
  uint32_t part = 0;             // its id
  std::span<std::byte> staging;  // the part's block_bytes, 64-byte aligned: write all of it before Commit
};

// Abandoned when it is destroyed before Commit: the keys are free again at once.
// Threads: writing to different payloads from several threads is fine; the rest is the owner's.
class Reservation {
 public:
  Reservation() = default;
  explicit Reservation(std::shared_ptr<ReservationState> state) : state_(std::move(state)) {}
  Reservation(Reservation&&) noexcept = default;
  Reservation& operator=(Reservation&&) noexcept = default;

  bool valid() const { return state_ != nullptr; }

  // What to write, ascending by position; owned by the reservation.
  std::span<const WantedPayload> wanted() const;

  // Positions that are not wanted: held by the node, being published by another session, refused (by the node, or
  // because staging was full), and why. With wanted(), they add up to what the node counted.
  uint32_t held() const;
  uint32_t being_published() const;
  uint32_t refused() const;
  const std::string& reason() const;
  // Bytes by which staging was too small or too full for what the node wanted; 0 = it was not.
  uint64_t staging_bytes_missing() const;

 private:
  friend class CacheClient;

  std::shared_ptr<ReservationState> state_;
};

struct CommitResult {
  uint32_t committed = 0;  // payloads that are now held and named
  uint32_t duplicate = 0;  // someone was first; theirs is kept
  uint32_t refused = 0;
  std::string reason;  // of the refusals
};

}  // namespace stem
