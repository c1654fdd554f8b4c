#include "services/console/namespace_parts.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/validate.h"

namespace stem {

absl::StatusOr<NamespaceParts> KnownParts::Of(const NamespaceFingerprint& space, const std::string& node, absl::Time by) {
  if (const auto known = Find(space)) return *known;
  if (!node.empty()) {
    if (Learn(node, by).ok()) {
      if (const auto known = Find(space)) return *known;
    }
  }
  const absl::Status asked = Learn("", by);
  if (const auto known = Find(space)) return *known;
  STEM_TRY(asked);
  return absl::NotFoundError(absl::StrCat("no node knows the namespace ", space.ToHex(), ": no engine has attached with it since they started"));
}

std::optional<NamespaceParts> KnownParts::Find(const NamespaceFingerprint& space) {
  MutexLock lock(mutex_);
  const auto known = known_.find(space);
  return known == known_.end() ? std::nullopt : std::optional(known->second);
}

absl::Status KnownParts::Learn(const std::string& node, absl::Time by) {
  STEM_ASSIGN(const auto answers, fleet_.AskNodes(by, node, &v1::NodeOperator::Stub::Namespaces));
  absl::Status silent;
  MutexLock lock(mutex_);
  for (const auto& answer : answers) {
    if (!answer.reply.ok()) {
      silent = answer.reply.status();
      continue;
    }
    for (const v1::NamespaceRegistry::Entry& entry : answer.reply->entries()) {
      const absl::StatusOr<NamespaceSpec> spec = ValidateSpec(entry.namespace_());
      if (!spec.ok()) continue;  // of a newer node: not what is asked for here
      NamespaceParts parts;
      for (const Part& part : spec->parts) {
        parts.ids.push_back(part.id);
        parts.window_blocks.push_back(WindowBlocks(part, spec->block_tokens));
      }
      if (known_.size() >= kNamespacesMax) known_.clear();
      known_[FingerprintOf(*spec, entry.group())] = std::move(parts);
    }
  }
  return silent;
}

}  // namespace stem
