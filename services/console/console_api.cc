#include "services/console/console_api.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <google/protobuf/util/json_util.h>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "proto/block_key.h"
#include "services/runtime/version.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using DirectoryStub = v1::Directory::Stub;
using FleetStub = v1::FleetOperator::Stub;
using NodeStub = v1::Node::Stub;
using OperatorStub = v1::NodeOperator::Stub;

constexpr uint32_t kRequestsMax = 500;
constexpr uint32_t kStemsMax = 500;
constexpr int kTroubledMax = 20;

std::string JsonOf(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  return google::protobuf::util::MessageToJsonString(message, &text, options).ok() ? text : "{}";
}

std::string Quoted(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Text(const Parameters& asked, const std::string& name) {
  const auto it = asked.find(name);
  return it == asked.end() ? "" : it->second;
}

absl::StatusOr<uint32_t> Number(const Parameters& asked, const std::string& name, uint32_t otherwise, uint32_t max) {
  const std::string text = Text(asked, name);
  if (text.empty()) return otherwise;
  uint32_t number = 0;
  if (!absl::SimpleAtoi(text, &number) || number > max) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is '", text, "'; it must be a number of at most ", max));
  }
  return number;
}

// Keys or a fingerprint, as bytes.
absl::StatusOr<std::string> Hex(const Parameters& asked, const std::string& name) {
  const std::string text = Text(asked, name);
  if (text.size() % (2 * sizeof(BlockKey)) != 0 || text.find_first_not_of("0123456789abcdefABCDEF") != text.npos) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is not in hex, 32 digits each"));
  }
  return absl::HexStringToBytes(text);
}

// {"nodes":[{"node":NAME,"FIELD":...} or {"node":NAME,"error":...}]}
template <typename Reply>
std::string NodesJson(const std::vector<FleetQuestions::NodeAnswer<Reply>>& answers, absl::string_view field) {
  return absl::StrCat("{\"nodes\":[", absl::StrJoin(answers, ",", [field](std::string* out, const auto& answer) {
    absl::StrAppend(out, "{\"node\":", Quoted(answer.node), ",");
    if (answer.reply.ok()) {
      absl::StrAppend(out, "\"", field, "\":", JsonOf(*answer.reply), "}");
    } else {
      absl::StrAppend(out, "\"error\":", Quoted(answer.reply.status().message()), "}");
    }
  }), "]}");
}

// Who did not answer, and why: [{"node":NAME,"error":...}]
template <typename Reply>
std::string SilentJson(const std::vector<FleetQuestions::NodeAnswer<Reply>>& answers) {
  std::vector<std::string> silent;
  for (const auto& answer : answers) {
    if (answer.reply.ok()) continue;
    silent.push_back(absl::StrCat("{\"node\":", Quoted(answer.node), ",\"error\":", Quoted(answer.reply.status().message()), "}"));
  }
  return absl::StrCat("[", absl::StrJoin(silent, ","), "]");
}

// A stem as several nodes saw it, and those nodes.
struct SeenStem {
  v1::HotStemsReply::Stem stem;
  std::vector<std::string> nodes;
};

// The same stem of several nodes is one: rates and requests add up, the share of hits is weighed by requests.
std::vector<SeenStem> Merge(const std::vector<FleetQuestions::NodeAnswer<v1::HotStemsReply>>& answers, size_t most) {
  absl::flat_hash_map<std::string, SeenStem> merged;
  for (const auto& answer : answers) {
    if (!answer.reply.ok()) continue;
    for (const v1::HotStemsReply::Stem& stem : answer.reply->stems()) {
      SeenStem& seen = merged[absl::StrCat(stem.namespace_fingerprint(), stem.key())];
      seen.nodes.push_back(answer.node);
      if (seen.nodes.size() == 1) {
        seen.stem = stem;
        continue;
      }
      v1::HotStemsReply::Stem& sum = seen.stem;
      const double requests = static_cast<double>(sum.requests() + stem.requests());
      if (requests > 0) {
        sum.set_hit_fraction((sum.hit_fraction() * static_cast<double>(sum.requests()) + stem.hit_fraction() * static_cast<double>(stem.requests())) / requests);
      }
      sum.set_requests(sum.requests() + stem.requests());
      sum.set_requests_per_minute(sum.requests_per_minute() + stem.requests_per_minute());
      sum.set_last_asked_ago_ms(std::min(sum.last_asked_ago_ms(), stem.last_asked_ago_ms()));
      if (sum.parent().empty()) sum.set_parent(stem.parent());
    }
  }
  std::vector<SeenStem> stems;
  stems.reserve(merged.size());
  for (auto& [name, seen] : merged) stems.push_back(std::move(seen));
  std::sort(stems.begin(), stems.end(), [](const SeenStem& a, const SeenStem& b) {
    return a.stem.requests_per_minute() != b.stem.requests_per_minute() ? a.stem.requests_per_minute() > b.stem.requests_per_minute()
                                                                        : a.stem.key() < b.stem.key();
  });
  if (stems.size() > most) stems.resize(most);
  return stems;
}

}  // namespace

absl::StatusOr<std::string> ConsoleApi::About(const Parameters&) {
  return absl::StrCat("{\"version\":", Quoted(std::string(kVersion)), ",\"admin\":", admin_ ? "true" : "false", "}");
}

absl::StatusOr<std::string> ConsoleApi::Fleet(const Parameters&) {
  return cache_.Get("fleet", [this]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(const v1::DirectoryStatusReply reply, fleet_.AskDirectory(&DirectoryStub::DirectoryStatus));
    return JsonOf(reply);
  });
}

absl::StatusOr<std::string> ConsoleApi::History(const Parameters& asked) {
  v1::HistoryRequest request;
  STEM_ASSIGN(const uint32_t seconds, Number(asked, "seconds", 900, 86400));
  STEM_ASSIGN(const uint32_t points, Number(asked, "points", 300, 2000));
  request.set_seconds(seconds);
  request.set_points_max(points);
  request.set_node(Text(asked, "node"));
  return cache_.Get(absl::StrCat("history ", request.SerializeAsString()), [&]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(const v1::HistoryReply reply, fleet_.AskDirectory(&FleetStub::History, request));
    return JsonOf(reply);
  });
}

absl::StatusOr<std::string> ConsoleApi::Nodes(const Parameters& asked) {
  const std::string node = Text(asked, "node");
  return cache_.Get(absl::StrCat("nodes ", node), [&] { return NodesJson(fleet_.AskNodes(node, &NodeStub::NodeStatus), "status"); });
}

absl::StatusOr<std::string> ConsoleApi::Requests(const Parameters& asked) {
  STEM_ASSIGN(const uint32_t recent, Number(asked, "recent", 100, kRequestsMax));
  const std::string node = Text(asked, "node");
  v1::RequestsRequest request;
  request.set_recent(fleet_.ShareOf(recent, node));
  request.set_request(Text(asked, "request"));
  request.set_slow_only(Text(asked, "slow") == "1");
  return cache_.Get(absl::StrCat("requests ", node, " ", request.SerializeAsString()), [&]() -> absl::StatusOr<std::string> {
    const auto answers = fleet_.AskRequests(node, request);
    std::vector<const v1::RequestRecord*> latest;
    for (const auto& answer : answers) {
      if (!answer.reply.ok()) continue;
      for (const v1::RequestRecord& record : *answer.reply) latest.push_back(&record);
    }
    std::sort(latest.begin(), latest.end(), [](const auto* a, const auto* b) {
      return a->began_unix_ms() != b->began_unix_ms() ? a->began_unix_ms() > b->began_unix_ms() : a->number() > b->number();
    });
    if (latest.size() > recent) latest.resize(recent);
    return absl::StrCat("{\"requests\":[", absl::StrJoin(latest, ",", [](std::string* out, const auto* record) { *out += JsonOf(*record); }),
                        "],\"silent\":", SilentJson(answers), "}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Stems(const Parameters& asked) {
  STEM_ASSIGN(const uint32_t most, Number(asked, "most", 100, kStemsMax));
  v1::HotStemsRequest request;
  request.set_stems_max(std::max(fleet_.ShareOf(most, ""), 1U));
  STEM_ASSIGN(*request.mutable_below(), Hex(asked, "below"));
  return cache_.Get(absl::StrCat("stems ", request.SerializeAsString()), [&]() -> absl::StatusOr<std::string> {
    const auto answers = fleet_.AskNodes("", &OperatorStub::HotStems, request);
    std::string json = "{\"stems\":[";
    bool first = true;
    for (const SeenStem& seen : Merge(answers, most)) {
      v1::ScoreRequest score;
      score.set_namespace_fingerprint(seen.stem.namespace_fingerprint());
      score.set_keys(seen.stem.key());
      STEM_ASSIGN(v1::ScoreReply holders, fleet_.AskDirectory(&DirectoryStub::Score, score));
      v1::ScoreReply held;
      for (v1::ScoreReply::Node& node : *holders.mutable_nodes()) {
        if (node.matched_blocks() > 0) held.add_nodes()->Swap(&node);
      }
      absl::StrAppend(&json, first ? "" : ",", "{\"stem\":", JsonOf(seen.stem), ",\"askedAt\":[",
                      absl::StrJoin(seen.nodes, ",", [](std::string* out, const std::string& node) { *out += Quoted(node); }),
                      "],\"holders\":", JsonOf(held), "}");
      first = false;
    }
    return absl::StrCat(json, "],\"silent\":", SilentJson(answers), "}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Curve(const Parameters& asked) {
  const std::string node = Text(asked, "node");
  return cache_.Get(absl::StrCat("curve ", node), [&] { return NodesJson(fleet_.AskNodes(node, &OperatorStub::HitCurve), "curve"); });
}

absl::StatusOr<std::string> ConsoleApi::Explain(const Parameters& asked) {
  v1::ExplainRequest request;
  STEM_ASSIGN(*request.mutable_namespace_fingerprint(), Hex(asked, "namespace"));
  STEM_ASSIGN(*request.mutable_keys(), Hex(asked, "keys"));
  STEM_ASSIGN(const v1::ExplainReply reply, fleet_.AskDirectory(&FleetStub::Explain, request));
  return JsonOf(reply);
}

absl::StatusOr<std::string> ConsoleApi::Tick() {
  return cache_.Get("tick", [this]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(v1::DirectoryStatusReply fleet, fleet_.AskDirectory(&DirectoryStub::DirectoryStatus));
    std::map<std::string, int> counts = {{"live", 0}, {"stale", 0}, {"lost", 0}, {"draining", 0}};
    v1::DirectoryStatusReply troubled;
    for (v1::DirectoryStatusReply::Node& node : *fleet.mutable_nodes()) {
      ++counts[node.state()];
      if (node.draining()) ++counts["draining"];
      if ((node.state() != "live" || node.draining()) && troubled.nodes_size() < kTroubledMax) troubled.add_nodes()->Swap(&node);
    }
    fleet.mutable_nodes()->Swap(troubled.mutable_nodes());
    v1::HistoryRequest request;
    request.set_seconds(10);
    request.set_points_max(10);
    const auto history = fleet_.AskDirectory(&FleetStub::History, request);
    return absl::StrCat("{\"counts\":", nlohmann::json(counts).dump(), ",\"fleet\":", JsonOf(fleet),
                        ",\"history\":", history.ok() ? JsonOf(*history) : "null", "}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Order(const std::string& node, const std::string& lever, const std::string& body) {
  const auto pull = [&](auto call, auto request) -> absl::StatusOr<std::string> {
    if (const auto read = google::protobuf::util::JsonStringToMessage(body, &request); !read.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("the order is not a ", request.GetTypeName(), ": ", read.message().ToString()));
    }
    STEM_ASSIGN(const auto reply, fleet_.AskNode(node, call, request));
    return JsonOf(reply);
  };
  if (!admin_) {
    return absl::PermissionDeniedError("this console only shows; start stem-directory with --admin, on loopback, for one that takes orders");
  }
  if (lever == "drain") return pull(&OperatorStub::Drain, v1::DrainRequest());
  if (lever == "keep") return pull(&OperatorStub::Keep, v1::KeepRequest());
  if (lever == "evict") return pull(&OperatorStub::Evict, v1::EvictRequest());
  if (lever == "quota") return pull(&OperatorStub::SetQuota, v1::SetQuotaRequest());
  return absl::NotFoundError(absl::StrCat("no lever '", lever, "'; there are drain, keep, evict and quota"));
}

}  // namespace stem
