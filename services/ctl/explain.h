// stemctl explain: walks a chain through the directory and says, for what is missing, why, when and where.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/block_key.h"
#include "proto/namespace_spec.h"
#include "services/ctl/status.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// A namespace as the nodes know it.
struct KnownSpace {
  NamespaceSpec spec;
  std::string tenant;  // trust group that owns it
  NamespaceFingerprint fingerprint;
};

// Of all nodes that answer, each once. Errors: why nobody is known to be asked, or of a node when none answers.
absl::StatusOr<std::vector<KnownSpace>> ReadNamespaces(const StatusTargets& targets);

// Which namespace is meant; empty fields fit all.
struct SpaceChoice {
  std::string model;
  std::string fingerprint;  // hex, or its beginning
  std::string tenant;
};
// The only one that fits. Errors: InvalidArgument lists what there is to choose from, and by what.
absl::StatusOr<KnownSpace> ChooseSpace(const std::vector<KnownSpace>& spaces, const SpaceChoice& choice);

// A prompt, by its keys.
struct PromptKeys {
  std::vector<BlockKey> keys;
  std::optional<Probe> probe;
  uint32_t tail_tokens = 0;  // beyond the last full block
};
// `secret`: of the cluster. Errors: InvalidArgument (no full block; a namespace of external hashes, whose keys are the engine's to make).
absl::StatusOr<PromptKeys> KeysOfTokens(const std::vector<uint32_t>& tokens, const KnownSpace& space, const std::string& salt,
                                        const ClusterSecret& secret);

struct Explanation {
  KnownSpace space;
  PromptKeys prompt;                           // of a request that is asked for by id: the first missing key alone
  stemcache::v1::ExplainReply reply;           // nothing asked when `prompt` has no keys
  std::optional<stemcache::v1::RequestRecord> record;
  std::vector<std::string> silent;             // nodes that did not say which requests they remember

  nlohmann::json ToJson() const;
  std::string ToText() const;
};

// Asks the directories in turn. Errors: of the last when none answers.
absl::StatusOr<Explanation> ExplainPrompt(const StatusTargets& targets, const KnownSpace& space, PromptKeys prompt);

// The latest request with the engine's id `request` that a node remembers. Errors: NotFound (none does, and all were asked), Unavailable (none
// does of those that answered; names the others).
absl::StatusOr<Explanation> ExplainRequest(const StatusTargets& targets, const std::string& request);

}  // namespace stem
