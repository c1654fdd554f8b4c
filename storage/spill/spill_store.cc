#include "storage/spill/spill_store.h"

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"

namespace stem {

absl::Status ValidateSpillWrites(std::span<const SpillWrite> writes) {
  absl::flat_hash_set<BlockName> names;
  names.reserve(writes.size());
  for (const SpillWrite& write : writes) {
    const uint64_t length = write.meta.length;
    const auto invalid = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("spill of block ", write.meta.name.key.ToHex(), ": ", what));
    };
    if (length == 0 || length > kSpillPayloadBytesMax) {
      return invalid(absl::StrCat("length ", length, ", not in 1..", kSpillPayloadBytesMax));
    }
    if (write.payload.size() != length) {
      return invalid(absl::StrCat("payload of ", write.payload.size(), " bytes, length says ", length));
    }
    if (!names.insert(write.meta.name).second) return invalid("twice in one call");
  }
  return absl::OkStatus();
}

absl::Status ValidateSpillRead(const SpillRead& read) {
  if (read.chunk_hashes.size() == ChunkCount(read.payload.size())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("spill read of ", read.payload.size(), " bytes with room for ",
                                                 read.chunk_hashes.size(), " chunk hashes, should be ",
                                                 ChunkCount(read.payload.size())));
}

absl::Status ProveSpillRead(SpillRead& read, const BlockMeta& record) {
  if (Digest(record.name, read.payload, read.chunk_hashes) != record.digest) {
    return absl::DataLossError(absl::StrCat("spill record ", record.name.key.ToHex(), ": payload does not have its digest"));
  }
  read.meta = record;
  return absl::OkStatus();
}

}  // namespace stem
