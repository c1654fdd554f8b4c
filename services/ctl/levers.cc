#include "services/ctl/levers.h"

#include <fstream>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/block_key.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {
namespace {

constexpr size_t kHexDigits = 2 * sizeof(BlockKey);

bool IsHex(absl::string_view text) {
  return text.size() == kHexDigits && text.find_first_not_of("0123456789abcdefABCDEF") == text.npos;
}

// Who is there, by name: from the first directory that answers.
absl::StatusOr<std::vector<NamedNode>> NodesOfFleet(const StatusTargets& targets, LostNodes lost) {
  STEM_ASSIGN(const std::optional<ClusterSecret> secret, ReadSecret(targets.secret_file));
  absl::Status why = absl::InvalidArgumentError("nobody to ask; give --dir, --nodes or --directory");
  for (const std::string& directory : targets.directories) {
    const auto status = Ask(directory, secret ? &*secret : nullptr, targets.deadline, &stemcache::v1::Directory::Stub::DirectoryStatus);
    if (!status.ok()) {
      why = absl::Status(status.status().code(), absl::StrCat("directory ", directory, ": ", status.status().message()));
      continue;
    }
    std::vector<NamedNode> nodes;
    for (const auto& node : status->nodes()) {
      if (lost == LostNodes::kToo || node.state() != "lost") nodes.push_back({node.address().node(), node.address().peer_address()});
    }
    return nodes;
  }
  return why;
}

}  // namespace

absl::StatusOr<std::vector<NamedNode>> NodesToAsk(const StatusTargets& targets, const std::string& name, LostNodes lost) {
  std::vector<NamedNode> nodes;
  for (const std::string& node : targets.nodes) {
    const auto known = targets.names.find(node);
    nodes.push_back({known == targets.names.end() ? node : known->second, node});
  }
  if (name.empty() && !nodes.empty()) return nodes;
  for (const NamedNode& node : nodes) {
    if (node.name == name) return std::vector<NamedNode>{node};
  }
  if (!name.empty() && (absl::StrContains(name, '/') || absl::StrContains(name, ':'))) {
    return std::vector<NamedNode>{{name, name}};
  }
  STEM_ASSIGN(nodes, NodesOfFleet(targets, lost));
  if (name.empty()) return nodes;
  std::string known;
  for (NamedNode& node : nodes) {
    if (node.name == name) return std::vector<NamedNode>{std::move(node)};
    absl::StrAppend(&known, known.empty() ? "" : ", ", node.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("no node '", name, "' is live; these are: ", known.empty() ? "none" : known));
}

absl::StatusOr<std::string> ReadStem(const std::string& stem) {
  if (IsHex(stem)) return absl::HexStringToBytes(stem);
  std::ifstream in(stem);
  if (!in) return absl::InvalidArgumentError(absl::StrCat("'", stem, "' is neither a key of ", kHexDigits, " hex digits nor a file that can be read"));
  std::string keys, word;
  while (in >> word) {
    if (!IsHex(word)) return absl::InvalidArgumentError(absl::StrCat(stem, ": '", word, "' is not a key of ", kHexDigits, " hex digits"));
    keys += absl::HexStringToBytes(word);
  }
  if (keys.empty()) return absl::InvalidArgumentError(absl::StrCat(stem, ": no key in it"));
  return keys;
}

absl::StatusOr<std::string> ReadFingerprint(const std::string& hex) {
  if (hex.empty()) return std::string();
  if (IsHex(hex)) return absl::HexStringToBytes(hex);
  return absl::InvalidArgumentError(absl::StrCat("--namespace: '", hex, "' is not a fingerprint of ", kHexDigits, " hex digits"));
}

}  // namespace stem
