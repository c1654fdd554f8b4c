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
#include "proto/validate.h"
#include "services/runtime/fleet_stems.h"
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
constexpr size_t kHeldStemsMax = 100;
constexpr int kTroubledMax = 20;
constexpr uint32_t kTickSeconds = 10;
constexpr absl::Duration kQuestionMax = absl::Seconds(5);
constexpr absl::Duration kOrderMax = absl::Seconds(60);  // as stemctl's: a node may have much to evict

// Of one question, however many nodes are asked for it.
absl::Time EndOfQuestion() { return absl::Now() + kQuestionMax; }

std::string JsonOf(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  return google::protobuf::util::MessageToJsonString(message, &text, options).ok() ? text : "{}";
}

std::string Quoted(absl::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string Quoted(const std::vector<std::string>& texts) {
  return absl::StrCat("[", absl::StrJoin(texts, ",", [](std::string* out, const std::string& text) { *out += Quoted(text); }), "]");
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
std::string NodesJson(const FleetQuestions::NodeAnswers<Reply>& answers, absl::string_view field) {
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
std::string SilentJson(const FleetQuestions::NodeAnswers<Reply>& answers) {
  std::vector<std::string> silent;
  for (const auto& answer : answers) {
    if (answer.reply.ok()) continue;
    silent.push_back(absl::StrCat("{\"node\":", Quoted(answer.node), ",\"error\":", Quoted(answer.reply.status().message()), "}"));
  }
  return absl::StrCat("[", absl::StrJoin(silent, ","), "]");
}

}  // namespace

absl::StatusOr<std::string> ConsoleApi::About(const Parameters&) {
  return absl::StrCat("{\"version\":", Quoted(std::string(kVersion)), ",\"admin\":", admin_ ? "true" : "false", "}");
}

absl::StatusOr<std::string> ConsoleApi::Fleet(const Parameters&) {
  return cache_.Get("fleet", [this]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(const v1::DirectoryStatusReply reply, fleet_.AskDirectory(EndOfQuestion(), &DirectoryStub::DirectoryStatus));
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
    STEM_ASSIGN(const v1::HistoryReply reply, fleet_.AskDirectory(EndOfQuestion(), &FleetStub::History, request));
    return JsonOf(reply);
  });
}

absl::StatusOr<std::string> ConsoleApi::Nodes(const Parameters& asked) {
  const std::string node = Text(asked, "node");
  return cache_.Get(absl::StrCat("nodes ", node), [&]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(const auto answers, fleet_.AskNodes(EndOfQuestion(), node, &NodeStub::NodeStatus));
    return NodesJson(answers, "status");
  });
}

absl::StatusOr<std::string> ConsoleApi::Requests(const Parameters& asked) {
  STEM_ASSIGN(const uint32_t recent, Number(asked, "recent", 100, kRequestsMax));
  const std::string node = Text(asked, "node");
  v1::RequestsRequest request;
  request.set_request(Text(asked, "request"));
  request.set_slow_only(Text(asked, "slow") == "1");
  return cache_.Get(absl::StrCat("requests ", node, " ", recent, " ", request.SerializeAsString()), [&]() -> absl::StatusOr<std::string> {
    const absl::Time by = EndOfQuestion();
    STEM_ASSIGN(const uint32_t share, fleet_.ShareOf(recent, node, by));
    request.set_recent(share);
    STEM_ASSIGN(const auto answers, fleet_.AskRequests(by, node, request));
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
  STEM_ASSIGN(*request.mutable_below(), Hex(asked, "below"));
  return cache_.Get(absl::StrCat("stems ", most, " ", request.SerializeAsString()), [&]() -> absl::StatusOr<std::string> {
    const absl::Time by = EndOfQuestion();
    STEM_ASSIGN(const uint32_t share, fleet_.ShareOf(most, "", by));
    request.set_stems_max(std::max(share, 1U));
    STEM_ASSIGN(const auto answers, fleet_.AskNodes(by, "", &OperatorStub::HotStems, request));
    std::vector<NodeStems> told;
    for (const auto& answer : answers) {
      if (answer.reply.ok()) told.push_back({answer.node, &*answer.reply});
    }
    const std::vector<FleetStem> stems = MergeStems(told, most);
    return absl::StrCat("{\"stems\":[", absl::StrJoin(stems, ",", [](std::string* out, const FleetStem& seen) {
      absl::StrAppend(out, "{\"stem\":", JsonOf(seen.stem), ",\"askedAt\":", Quoted(seen.nodes), "}");
    }), "],\"silent\":", SilentJson(answers), "}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Holders(const Parameters& asked) {
  STEM_ASSIGN(const std::string fingerprint, Hex(asked, "namespace"));
  STEM_ASSIGN(const NamespaceFingerprint space, ValidateFingerprint(fingerprint));
  STEM_ASSIGN(const std::string bytes, Hex(asked, "keys"));
  STEM_ASSIGN(const std::vector<BlockKey> keys, ValidateKeys(bytes));
  if (keys.size() > kHeldStemsMax) {
    return absl::InvalidArgumentError(absl::StrCat("keys names ", keys.size(), " stems; it must be at most ", kHeldStemsMax));
  }
  return cache_.Get(absl::StrCat("holders ", fingerprint, bytes), [&]() -> absl::StatusOr<std::string> {
    const absl::Time by = EndOfQuestion();
    STEM_ASSIGN(const NamespaceParts parts, parts_.Of(space, Text(asked, "node"), by));
    v1::ScoreRequest score;
    score.set_namespace_fingerprint(fingerprint);
    score.mutable_parts()->Add(parts.ids.begin(), parts.ids.end());
    score.mutable_window_blocks()->Add(parts.window_blocks.begin(), parts.window_blocks.end());
    std::vector<std::string> stems;
    for (const BlockKey& key : keys) {
      score.set_keys(std::string(key.bytes()));
      STEM_ASSIGN(v1::ScoreReply scores, fleet_.AskDirectory(by, &DirectoryStub::Score, score));
      v1::ScoreReply held;
      for (v1::ScoreReply::Node& node : *scores.mutable_nodes()) {
        if (node.matched_blocks() > 0 || node.engine_blocks() > 0) held.add_nodes()->Swap(&node);
      }
      stems.push_back(absl::StrCat("\"", key.ToHex(), "\":", JsonOf(held)));
    }
    return absl::StrCat("{\"holders\":{", absl::StrJoin(stems, ","), "}}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Curve(const Parameters& asked) {
  const std::string node = Text(asked, "node");
  return cache_.Get(absl::StrCat("curve ", node), [&]() -> absl::StatusOr<std::string> {
    STEM_ASSIGN(const auto answers, fleet_.AskNodes(EndOfQuestion(), node, &OperatorStub::HitCurve));
    return NodesJson(answers, "curve");
  });
}

absl::StatusOr<std::string> ConsoleApi::Explain(const Parameters& asked) {
  const absl::Time by = EndOfQuestion();
  v1::ExplainRequest request;
  STEM_ASSIGN(*request.mutable_namespace_fingerprint(), Hex(asked, "namespace"));
  STEM_ASSIGN(*request.mutable_keys(), Hex(asked, "keys"));
  STEM_ASSIGN(*request.mutable_probe(), Hex(asked, "probe"));
  STEM_ASSIGN(const NamespaceFingerprint space, ValidateFingerprint(request.namespace_fingerprint()));
  STEM_ASSIGN(const NamespaceParts parts, parts_.Of(space, Text(asked, "node"), by));
  request.mutable_parts()->Add(parts.ids.begin(), parts.ids.end());
  request.mutable_window_blocks()->Add(parts.window_blocks.begin(), parts.window_blocks.end());
  STEM_ASSIGN(const v1::ExplainReply reply, fleet_.AskDirectory(by, &FleetStub::Explain, request));
  return JsonOf(reply);
}

absl::StatusOr<std::string> ConsoleApi::Tick(const Parameters&) {
  return cache_.Get("tick", [this]() -> absl::StatusOr<std::string> {
    const absl::Time by = EndOfQuestion();
    STEM_ASSIGN(v1::DirectoryStatusReply fleet, fleet_.AskDirectory(by, &DirectoryStub::DirectoryStatus));
    std::map<std::string, int> counts = {{"live", 0}, {"stale", 0}, {"lost", 0}, {"draining", 0}};
    v1::DirectoryStatusReply troubled;
    for (v1::DirectoryStatusReply::Node& node : *fleet.mutable_nodes()) {
      ++counts[node.state()];
      if (node.draining()) ++counts["draining"];
      if ((node.state() != "live" || node.draining()) && troubled.nodes_size() < kTroubledMax) troubled.add_nodes()->Swap(&node);
    }
    fleet.mutable_nodes()->Swap(troubled.mutable_nodes());
    v1::HistoryRequest request;
    request.set_seconds(kTickSeconds);
    request.set_points_max(kTickSeconds + 2);  // so many that no seconds are put together
    const auto history = fleet_.AskDirectory(by, &FleetStub::History, request);
    return absl::StrCat("{\"counts\":", nlohmann::json(counts).dump(), ",\"fleet\":", JsonOf(fleet),
                        ",\"history\":", history.ok() ? JsonOf(*history) : "null", "}");
  });
}

absl::StatusOr<std::string> ConsoleApi::Order(const std::string& node, const std::string& lever, const std::string& body) {
  const auto pull = [&](auto call, auto request) -> absl::StatusOr<std::string> {
    if (const auto read = google::protobuf::util::JsonStringToMessage(body, &request); !read.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("the order is not a ", request.GetTypeName(), ": ", read.message().ToString()));
    }
    STEM_ASSIGN(const auto reply, fleet_.AskNode(absl::Now() + kOrderMax, node, call, request));
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
