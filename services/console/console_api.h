// What the page is told: answers of the fleet as JSON, in protobuf's own mapping (keys in base64, numbers of 64 bits as text), and what an
// administrator may order. Threads: any.
#pragma once

#include <map>
#include <string>

#include "services/console/answer_cache.h"
#include "services/console/fleet_questions.h"
#include "services/console/namespace_parts.h"

namespace stem {

// The parameters of a GET. Values that will not do are InvalidArgument.
using Parameters = std::multimap<std::string, std::string>;

class ConsoleApi {
 public:
  // Borrowed. `admin`: orders are taken.
  ConsoleApi(FleetQuestions& fleet, bool admin) : fleet_(fleet), parts_(fleet), admin_(admin) {}

  // Each a JSON document, made within some seconds: what could not be asked in that time is told as such.
  absl::StatusOr<std::string> About(const Parameters& = {});
  absl::StatusOr<std::string> Fleet(const Parameters& = {});   // DirectoryStatusReply
  absl::StatusOr<std::string> History(const Parameters& asked);  // seconds, points, node
  absl::StatusOr<std::string> Nodes(const Parameters& asked);    // NodeStatusReply of each; node
  absl::StatusOr<std::string> Requests(const Parameters& asked);  // the latest of all nodes, latest first; recent, slow, node, request
  absl::StatusOr<std::string> Stems(const Parameters& asked);    // HotStems of all nodes; most, below
  // Who holds stems that end with these keys; namespace, keys: in hex, node: one that knows the namespace.
  absl::StatusOr<std::string> Holders(const Parameters& asked);
  absl::StatusOr<std::string> Curve(const Parameters& asked);    // HitCurve of each node; node
  absl::StatusOr<std::string> Explain(const Parameters& asked);  // namespace, keys, probe: in hex; node: one that knows the namespace
  // What a follower is told each second: counts of nodes, those in trouble, the latest points.
  absl::StatusOr<std::string> Tick(const Parameters& = {});

  // An order to one node: drain, keep, evict or quota, with its request message as JSON.
  absl::StatusOr<std::string> Order(const std::string& node, const std::string& lever, const std::string& body);

 private:
  FleetQuestions& fleet_;
  KnownParts parts_;
  const bool admin_;
  AnswerCache cache_{absl::Seconds(1)};
};

}  // namespace stem
