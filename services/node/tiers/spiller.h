// Moves the least valuable blocks from DRAM to SSD ahead of demand, under the disk's quota; of namespaces that ask for it, as codes (spill_codec.h).
// One thread. A block counts as spilled only after its batch is durable; then its holder changes tier, then its slot is free (law 6).
#pragma once

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "services/node/records/encoded_spills.h"
#include "services/node/records/request_trace.h"
#include "services/node/spaces/space_table.h"
#include "services/node/tiers/spill_codec.h"
#include "services/runtime/log.h"
#include "storage/spill/aligned_buffer.h"
#include "storage/spill/spill_store.h"

namespace stem {

class Spiller {
 public:
  static constexpr uint64_t kPayloadsPerSample = 16;  // of those that are encoded, one in so many is decoded again, to see the error

  // All borrowed; starts its thread.
  Spiller(SpaceTable& spaces, SpillStore& store, LatestPublish& latest, const RequestSinks& sinks, Logger& log);
  // Finishes the batch at hand.
  ~Spiller();
  Spiller(const Spiller&) = delete;
  Spiller& operator=(const Spiller&) = delete;

 private:
  // Of one namespace.
  struct Encoder {
    const Space* space = nullptr;
    std::optional<SpillCodec> codec;  // none = payloads are written as they are
    uint64_t encoded = 0;             // payloads
    EncodedSpills batch;              // of the batch at hand
  };

  void Run();
  // Brings `pool` under its SSD quota and spills one batch of it; returns how many blocks were given up there or written.
  size_t Step(BlockPool& pool);
  // What is to be written of each of `batch`: its payload, or its codes in encoded_, until the next call.
  std::vector<SpillWrite> WritesOf(const std::vector<BlockPin>& batch);
  // Encodes `write` into the beginning of `room`; false: it stays as it is.
  bool Encode(Encoder& encoder, SpillWrite& write, std::span<std::byte> room);
  Encoder& EncoderOf(const NamespaceFingerprint& space);
  void CountEncoded(bool stored);
  // Says when the disk begins to fail and when it works again.
  void Note(const absl::Status& status, size_t blocks);
  void Trace(absl::Time begin, size_t blocks, uint64_t bytes, const absl::Status& status);

  SpaceTable& spaces_;
  SpillStore& store_;
  LatestPublish& latest_;
  const RequestSinks& sinks_;
  Logger& log_;
  std::atomic<bool> stopping_{false};
  bool failing_ = false;  // so that a full disk is told once, not at every batch
  absl::flat_hash_map<NamespaceFingerprint, Encoder> encoders_;  // of the namespaces that were spilled
  AlignedBuffer encoded_{0};        // the codes of a batch
  std::vector<std::byte> decoded_;  // of a sample
  std::thread thread_;
};

}  // namespace stem
