// stemctl tail: requests as they come.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/ctl/commands.h"
#include "services/ctl/levers.h"
#include "services/ctl/requests.h"
#include "services/ctl/targets.h"
#include "services/runtime/config.h"
#include "services/runtime/lifecycle.h"

namespace stem {
namespace {

struct Arguments {
  TargetArguments targets;
  std::string node;
  std::string request;
  std::string json;
  uint32_t recent = 20;
  bool slow = false;
  bool once = false;
};

absl::StatusOr<int> Run(const Arguments& arguments) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  std::FILE* const lines = arguments.json.empty() || arguments.json == "-" ? nullptr : std::fopen(arguments.json.c_str(), "we");
  if (!arguments.json.empty() && arguments.json != "-" && lines == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot write ", arguments.json));
  }
  StopSignal signal;  // before any thread, and gRPC has some from the first call on
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets, arguments.node));
  std::vector<std::pair<std::string, std::string>> addresses;
  for (const NamedNode& node : nodes) addresses.emplace_back(node.name, node.address);
  stemcache::v1::RequestsRequest request;
  request.set_recent(arguments.recent);
  request.set_follow(!arguments.once);
  request.set_request(arguments.request);
  request.set_slow_only(arguments.slow);
  const bool columns = arguments.json != "-";
  if (columns) std::fputs(RecordHeads().c_str(), stdout);
  const auto show = [&](const stemcache::v1::RequestRecord& record) {
    const std::string json = RecordToJson(record).dump() + "\n";
    std::fputs(columns ? RecordRow(record).c_str() : json.c_str(), stdout);
    std::fflush(stdout);
    if (lines != nullptr) std::fputs(json.c_str(), lines);
  };
  const auto ends = FollowRequests(addresses, targets.secret_file, request, show, [&] { return signal.WaitFor(absl::ZeroDuration()); });
  if (lines != nullptr) std::fclose(lines);
  int code = kExitOk;
  for (const Answer<bool>& end : ends) {
    if (end.reply.ok()) continue;
    std::fputs(absl::StrCat("stemctl: node ", end.target, ": ", end.reply.status().message(), "\n").c_str(), stderr);
    code = kExitFailed;
  }
  return code;
}

}  // namespace

void AddTailCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("tail", "requests as they come, until interrupted; exit code 1 when a node does not answer or ends");
  command.add_option("--recent", arguments->recent, "begin with so many that ended before, of each node")->capture_default_str();
  command.add_flag("--once", arguments->once, "end after those");
  command.add_option("--request", arguments->request, "only those with this engine's id");
  command.add_flag("--slow", arguments->slow, "only those that the node keeps as slow or failed");
  command.add_option("--node", arguments->node, "only of this node, by name; default: of all");
  AddTargets(command, &arguments->targets);
  command.add_option("--json", arguments->json, "write a JSON document a line; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
