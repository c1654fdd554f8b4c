// The SSD tier of a node: blocks that left DRAM, by name, until the node removes them. The store keeps bytes and says
// what it kept, and proves what it reads; quota and eviction are the node's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "proto/status.h"
#include "storage/block_meta.h"

namespace stem {

inline constexpr uint64_t kSpillPayloadBytesMax = 1ULL << 30;

// One block to keep. Borrows the payload until Put returns; at a page's start it is written from where it is.
struct SpillWrite {
  BlockMeta meta;
  std::span<const std::byte> payload;  // meta.length bytes
};

// One block to read. The caller fills the first three, Get the rest; the spans may be the slot that will serve it, and
// payloads that start at a page are read right into place.
struct SpillRead {
  BlockName name;
  std::span<std::byte> payload;      // exactly as long as the caller's books say the payload is
  std::span<uint64_t> chunk_hashes;  // ChunkCount(payload.size()) entries
  BlockMeta meta;
  // OK: the payload has the digest that `meta` names, chunk_hashes are those of its bytes; the caller compares `meta` with
  // its own books. NotFound. DataLoss: torn, altered, of another length, or the disk cannot read it: remove it.
  // Unavailable: the disk did not answer, try again later. InvalidArgument: spans that do not fit each other. After an
  // error the spans hold anything.
  absl::Status status;
};

// What every implementation refuses before it touches anything. Errors: InvalidArgument.
absl::Status ValidateSpillWrites(std::span<const SpillWrite> writes);
absl::Status ValidateSpillRead(const SpillRead& read);

// Proves a payload that was read: fills `read.chunk_hashes`, sets `read.meta`. Errors: DataLoss.
absl::Status ProveSpillRead(SpillRead& read, const BlockMeta& record);

// Counted since the store was opened, but for the first four.
struct SpillStats {
  uint64_t records = 0;     // live now
  uint64_t live_bytes = 0;  // SpillRecordBytes of live records, now: what a quota counts
  uint64_t disk_bytes = 0;  // of the payload file, now: live payloads and room that the next ones will use
  uint64_t free_bytes = 0;  // of these: room
  uint64_t writes = 0;
  uint64_t write_bytes = 0;  // payload bytes of those
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
  // After an error none of the names may be counted on, not even for an earlier record: strike them off the books.
  // Errors: ResourceExhausted (no room: says how much is needed and free; reads go on, and a later Put works once
  // there is room), InvalidArgument (nothing was written), Unavailable (disk failed).
  virtual absl::Status Put(std::span<const SpillWrite> writes) = 0;

  // Reads each payload into its caller's memory and proves it; every read has its own status. Neighbours of one stem are
  // read as one request, several requests at once. Blocks on the disk.
  virtual void Get(std::span<SpillRead> reads) = 0;

  // Forgets these; absent ones and names that have a record of another generation by now are fine. Their space is used again by later Puts, without any copying. A crash before
  // the next Put may bring back a suffix of the removals, as whole records that prove themselves. Errors: as Put.
  virtual absl::Status Remove(std::span<const SpillRecordId> records) = 0;

  // Visits every record, in no particular order, without reading payloads; for a warm restart. What is put or removed
  // meanwhile may be missed. Errors: DataLoss (part of the index could not be read at the start; what was visited is good).
  virtual absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) = 0;

  virtual SpillStats stats() const = 0;
};

}  // namespace stem
