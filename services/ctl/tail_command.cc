// stemctl tail: requests as they come.
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "proto/validate_operator.h"
#include "services/ctl/commands.h"
#include "services/ctl/levers.h"
#include "services/ctl/printable.h"
#include "services/ctl/request_streams.h"
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

// Where records go: columns or JSON lines to standard output, JSON lines to a file too. The first write that fails ends it.
class Sink {
 public:
  static absl::StatusOr<Sink> Open(const std::string& json) {
    Sink sink;
    sink.columns_ = json != "-";
    if (json.empty() || json == "-") return sink;
    sink.path_ = json;
    sink.file_.reset(std::fopen(json.c_str(), "we"));
    if (sink.file_ == nullptr) return sink.Failure(json);
    return sink;
  }

  absl::Status Begin() { return columns_ ? PrintText(RecordHeads()) : absl::OkStatus(); }
  bool Show(const stemcache::v1::RequestRecord& record) {
    const std::string json = RecordToJson(record).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    status_ = PrintText(columns_ ? RecordRow(record) : json);
    if (status_.ok() && file_ != nullptr && (std::fputs(json.c_str(), file_.get()) == EOF || std::fflush(file_.get()) != 0)) {
      status_ = Failure(path_);
    }
    return status_.ok();
  }
  // Nobody reads standard output any more: told without a write, as nodes may have nothing to say for long.
  static bool IsClosed() {
    pollfd out = {.fd = STDOUT_FILENO, .events = 0, .revents = 0};
    return ::poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
  }
  absl::Status Close() {
    if (file_ != nullptr && std::fclose(file_.release()) != 0 && status_.ok()) status_ = Failure(path_);
    return status_;
  }

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  static absl::Status Failure(const std::string& path) { return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno))); }

  bool columns_ = true;
  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
  absl::Status status_;
};

void Tell(const std::string& node, const absl::Status& why, bool again) {
  std::fputs(absl::StrCat("stemctl: ", node, ": ", Printable(why.message()), again ? "; it is asked again until it answers" : "", "\n").c_str(), stderr);
}
void TellBack(const std::string& node) { std::fputs(absl::StrCat("stemctl: ", node, " is back\n").c_str(), stderr); }

absl::StatusOr<int> Run(const Arguments& arguments) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  STEM_ASSIGN(Sink sink, Sink::Open(arguments.json));
  StopSignal signal;  // before any thread, and gRPC has some from the first call on
  STEM_ASSIGN(const std::vector<NamedNode> nodes, NodesToAsk(targets, arguments.node, LostNodes::kToo));
  stemcache::v1::RequestsRequest request;
  request.set_recent(arguments.recent);
  request.set_follow(!arguments.once);
  request.set_request(arguments.request);
  request.set_slow_only(arguments.slow);
  STEM_TRY(sink.Begin());
  bool closed = false;
  const auto stop = [&] { return signal.WaitFor(absl::ZeroDuration()) || (closed = Sink::IsClosed()); };
  const auto show = [&](const stemcache::v1::RequestRecord& record) { return sink.Show(record); };
  const auto ends = FollowRequests(nodes, targets.secret_file, request, targets.deadline, {.show = show, .lost = Tell, .back = TellBack, .stop = stop});
  STEM_TRY(sink.Close());
  int code = closed ? kExitFailed : kExitOk;
  for (const Answer<bool>& end : ends) {
    if (end.reply.ok()) continue;
    if (arguments.once) Tell(end.target, end.reply.status(), false);
    code = kExitFailed;
  }
  return code;
}

}  // namespace

void AddTailCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("tail", "requests as they come, until interrupted; a node that ends is told and asked again; exit code 1 when one does not answer at the end");
  command.add_option("--recent", arguments->recent, "begin with so many that ended before, of each node")
      ->check(CLI::Range(uint32_t{0}, kRequestsRecentMax))
      ->capture_default_str();
  command.add_flag("--once", arguments->once, "end after those");
  command.add_option("--request", arguments->request, "only those with this engine's id");
  command.add_flag("--slow", arguments->slow, "only those that the node keeps as slow or failed");
  command.add_option("--node", arguments->node, "only of this node, by name; default: of all");
  AddTargets(command, &arguments->targets);
  command.add_option("--json", arguments->json, "write a JSON document a line; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
