// The parts of namespaces, as the nodes tell them: who asks the directory for a block of several parts has to name them all. A fingerprint is of
// everything about its namespace, so what was told once stays right. Threads: any.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/block_key.h"
#include "services/console/fleet_questions.h"

namespace stem {

struct NamespaceParts {
  std::vector<uint32_t> ids;
  std::vector<uint32_t> window_blocks;  // of each; 0 = full attention
};

class KnownParts {
 public:
  // Borrowed.
  explicit KnownParts(FleetQuestions& fleet) : fleet_(fleet) {}

  // `node`: one that may know the namespace, asked before all others. Errors: NotFound (no node does), or of those who did not answer.
  absl::StatusOr<NamespaceParts> Of(const NamespaceFingerprint& space, const std::string& node, absl::Time by);

 private:
  static constexpr size_t kNamespacesMax = 4096;  // then all are asked for again

  std::optional<NamespaceParts> Find(const NamespaceFingerprint& space);
  // What `node` knows, or, when empty, all do. Errors: of the last that did not answer.
  absl::Status Learn(const std::string& node, absl::Time by);

  FleetQuestions& fleet_;
  Mutex mutex_;
  absl::flat_hash_map<NamespaceFingerprint, NamespaceParts> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
