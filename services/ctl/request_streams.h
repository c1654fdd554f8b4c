// What nodes tell of requests, streamed from all of them by one thread, however many they are.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "services/ctl/ask.h"
#include "services/ctl/levers.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

struct RequestWatcher {
  // Every record, in each node's order. False ends it all, as `stop` does.
  std::function<bool(const stemcache::v1::RequestRecord&)> show;
  // With `follow`: at once when a node's stream ends, or does not begin; `again`: it is tried until it is back, else that is of no use (a refused
  // token). And when a node that was lost tells something again.
  std::function<void(const std::string& node, const absl::Status& why, bool again)> lost = nullptr;
  std::function<void(const std::string& node)> back = nullptr;
  // Asked a few times a second. Without it only the streams' ends end it.
  std::function<bool()> stop = nullptr;
};

// Asks all nodes at once. Without `follow` each has `deadline` to tell what it remembers. With it, until `stop`; a stream that breaks is tried again,
// later and later, and goes on where it ended. Calls `watcher` from this thread alone. Returns how each node's stream ended: OK when it told
// all, or with `follow` when it was there to the last.
std::vector<Answer<bool>> FollowRequests(const std::vector<NamedNode>& nodes, const std::string& secret_file,
                                         const stemcache::v1::RequestsRequest& request, absl::Duration deadline, const RequestWatcher& watcher);

}  // namespace stem
