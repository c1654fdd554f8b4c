// How this room sets RocksDB up, and what RocksDB's statuses mean here. Included by rocks_spill_store.cc only: no other
// file of the project sees RocksDB.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"

namespace stem {

rocksdb::DBOptions SpillDatabaseOptions(bool direct_io);

// Two column families that share one index cache: "default" (name -> header) and "payload" (name -> record, a blob).
std::vector<rocksdb::ColumnFamilyDescriptor> SpillFamilies();

// NotFound; DataLoss (corrupt or missing file); ResourceExhausted (no space); Internal (our misuse); else Unavailable.
absl::Status FromRocks(const rocksdb::Status& status, absl::string_view doing);

}  // namespace stem
