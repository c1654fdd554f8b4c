// How this room sets RocksDB up, and what RocksDB's types and statuses are in ours. Included by rocks_spill_store.cc
// only: no other file of the project sees RocksDB.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "storage/spill/record.h"

namespace stem {

rocksdb::DBOptions SpillDatabaseOptions(bool direct_io);

// Two column families that share one index cache: "default" (name -> header) and "payload" (name -> record, a blob).
std::vector<rocksdb::ColumnFamilyDescriptor> SpillFamilies();

inline rocksdb::Slice AsSlice(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline rocksdb::Slice AsSlice(const SpillKey& key) { return {key.data(), key.size()}; }
inline std::span<const std::byte> AsBytes(const rocksdb::Slice& slice) {
  return std::as_bytes(std::span(slice.data(), slice.size()));
}

// NotFound; DataLoss (corrupt or missing file); ResourceExhausted (no space); Internal (our misuse); else Unavailable.
absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing);

}  // namespace stem
