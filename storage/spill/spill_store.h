// The SSD tier of a node: blocks that left DRAM, by name, until the node removes them. The store keeps bytes and says
// what it kept; quota, eviction and the proof of the digest are the node's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "proto/status.h"
#include "storage/block_meta.h"

namespace stem {

inline constexpr uint64_t kSpillPayloadBytesMax = 1ULL << 30;

// One block to keep. Borrows both spans until Put returns.
struct SpillWrite {
  BlockMeta meta;
  std::span<const std::byte> payload;      // meta.length bytes
  std::span<const uint64_t> chunk_hashes;  // ChunkCount(meta.length) entries
};

// One block to read. The caller fills the first three, Get the rest; the spans may be the slot that will serve it.
struct SpillRead {
  BlockName name;
  std::span<std::byte> payload;      // exactly as long as the caller's books say the payload is
  std::span<uint64_t> chunk_hashes;  // ChunkCount(payload.size()) entries
  BlockMeta meta;
  // OK: spans and meta are filled; the caller still proves generation and digest. NotFound. DataLoss: torn, altered,
  // of another format version, name or length: remove it. Unavailable: the disk did not answer, try again later.
  // InvalidArgument: spans that do not fit each other. After an error the spans hold anything.
  absl::Status status;
};

// What every implementation refuses before it touches anything. Errors: InvalidArgument.
absl::Status ValidateSpillWrites(std::span<const SpillWrite> writes);
absl::Status ValidateSpillRead(const SpillRead& read);

// Counted since the store was opened, but for the three sizes.
struct SpillStats {
  uint64_t records = 0;     // live now
  uint64_t live_bytes = 0;  // bytes of live records, now
  uint64_t disk_bytes = 0;  // bytes of files, now: live records, garbage and the index
  uint64_t writes = 0;
  uint64_t write_bytes = 0;  // records as put: payload, chunk hashes, header
  uint64_t reads = 0;        // answered OK
  uint64_t read_bytes = 0;   // payload bytes of those
  uint64_t corrupt_records = 0;
  uint64_t disk_write_bytes = 0;  // what reached the disk for write_bytes; their ratio is the write amplification
};

// Threads: all of it from any; writes take turns, reads run beside everything.
class SpillStore {
 public:
  virtual ~SpillStore() = default;

  // Keeps `writes`, replacing records of the same names; names must differ within one call. When it returns OK, these
  // and all calls before it survive kill -9 and power loss; an empty call makes earlier removals durable.
  // After an error none of the names may be counted on, not even for an earlier record: strike them off the books, and
  // Remove those that had one.
  // Errors: ResourceExhausted (no room: says how much is needed and free; reads go on, and a later Put works once
  // there is room), InvalidArgument (nothing was written), Unavailable (disk failed).
  virtual absl::Status Put(std::span<const SpillWrite> writes) = 0;

  // Reads each payload into its caller's memory; every read has its own status. Blocks on the disk.
  virtual void Get(std::span<SpillRead> reads) = 0;

  // Forgets `names`; absent ones are fine. A crash before the next Put may bring back a suffix of the removals, as
  // whole records that prove themselves. Errors: as Put.
  virtual absl::Status Remove(std::span<const BlockName> names) = 0;

  // Visits every record, in no particular order, without reading payloads; for a warm restart. What is put or removed
  // meanwhile may be missed. Damaged entries are skipped and counted. Errors: DataLoss (part of the index could not be
  // read; what was visited is good), Unavailable.
  virtual absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) = 0;

  // One bounded round of taking back the space of removed and replaced records; false when
  // there was too little garbage to be worth it. Call it now and then, after removals, best from a thread of its own: a
  // round takes seconds, and a Put that finds more garbage than live bytes does one itself before it writes.
  // Errors: ResourceExhausted, Unavailable.
  virtual absl::StatusOr<bool> CollectGarbage() = 0;

  // Bytes of live records, payload, chunk hashes and headers: what a quota counts.
  virtual uint64_t bytes_used() const = 0;

  virtual SpillStats stats() const = 0;
};

}  // namespace stem
