// Requests as the nodes remember and tell them: for `stemctl tail` and `stemctl explain --request`.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/status.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// What the nodes remember of requests with the engine's id `request`, and who of them did not say.
struct RememberedRequests {
  std::vector<stemcache::v1::RequestRecord> records;
  std::vector<std::pair<std::string, absl::Status>> silent;  // nodes by name, and why: what they remember is not in `records`
};
// Waits for `targets.deadline` at most. Errors: why nobody is known to be asked; Unavailable (no record, and somebody silent: named).
absl::StatusOr<RememberedRequests> ReadRequests(const StatusTargets& targets, const std::string& request);

// The record's own fields; keys and fingerprints in hex, causes and sources by their names.
nlohmann::json RecordToJson(const stemcache::v1::RequestRecord& record);

// Two lines: who asked what, and its steps.
std::string RecordToText(const stemcache::v1::RequestRecord& record);

// One line of `tail`'s columns, and their heads.
std::string RecordHeads();
std::string RecordRow(const stemcache::v1::RequestRecord& record);

}  // namespace stem
