// Requests as the nodes remember and tell them: for `stemctl tail` and `stemctl explain --request`.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/status.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// What every node remembers of requests with the engine's id `request`, node by node. Errors: of the last node when none answers.
absl::StatusOr<std::vector<stemcache::v1::RequestRecord>> ReadRequests(const StatusTargets& targets, const std::string& request);

// Asks all nodes at once and hands every record to `show`, one at a time, as they come: with `request.follow` until all streams end or
// `stop` says so, which is asked a few times a second. Returns how each node's stream ended, by the node's name; OK for one that `stop` ended.
std::vector<Answer<bool>> FollowRequests(const std::vector<std::pair<std::string, std::string>>& nodes, const std::string& secret_file,
                                         const stemcache::v1::RequestsRequest& request,
                                         const std::function<void(const stemcache::v1::RequestRecord&)>& show,
                                         const std::function<bool()>& stop);

// The record's own fields; keys and fingerprints in hex, causes and sources by their names.
nlohmann::json RecordToJson(const stemcache::v1::RequestRecord& record);

// Two lines: who asked what, and its steps.
std::string RecordToText(const stemcache::v1::RequestRecord& record);

// One line of `tail`'s columns, and their heads.
std::string RecordHeads();
std::string RecordRow(const stemcache::v1::RequestRecord& record);

}  // namespace stem
