// What operators do to nodes: drain one, keep a stem from eviction, evict by name, limit a trust group.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/ask.h"
#include "services/ctl/status.h"
#include "services/runtime/at_once.h"
#include "stemcache/v1/operator.grpc.pb.h"

namespace stem {

struct NamedNode {
  std::string name;     // or what the user called it
  std::string address;  // path of a Unix socket, or host:port
};

// Whether nodes are meant that the directories have lost: for whoever must say that they did not answer.
enum class LostNodes { kLeftOut, kToo };

// The nodes that `targets` means: its own, or else all that its directories know. With `name` only the node that is called so there, or that
// path or address itself. Errors: InvalidArgument (no such node), or why no directory answers.
absl::StatusOr<std::vector<NamedNode>> NodesToAsk(const StatusTargets& targets, const std::string& name = "",
                                                  LostNodes lost = LostNodes::kLeftOut);

// What a user calls a stem: the last key in hex, or a file with the chain's keys in hex, a line each, from its beginning.
// Returns the keys packed. Errors: InvalidArgument says what is neither.
absl::StatusOr<std::string> ReadStem(const std::string& stem);

// A namespace's fingerprint in hex; empty stays empty.
absl::StatusOr<std::string> ReadFingerprint(const std::string& hex);

// Pulls a lever on several nodes at a time; who refuses or does not answer is in the result with why.
template <typename Request, typename Reply>
std::vector<Answer<Reply>> Pull(const std::vector<NamedNode>& nodes, const ClusterSecret* secret, absl::Duration deadline,
                                grpc::Status (stemcache::v1::NodeOperator::Stub::*lever)(grpc::ClientContext*, const Request&, Reply*),
                                const Request& request) {
  std::vector<Answer<Reply>> answers(nodes.size());
  AskAtOnce(nodes.size(), kQuestionsAtOnce, [&](size_t i) { answers[i] = {nodes[i].name, Ask(nodes[i].address, secret, deadline, lever, request)}; });
  return answers;
}

}  // namespace stem
