// stemctl top: a cluster's traffic, live.
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/time/clock.h"
#include "services/ctl/commands.h"
#include "services/ctl/targets.h"
#include "services/ctl/top.h"
#include "services/ctl/top_screen.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

constexpr char kFoot[] = "q quit   space pause   1 all  2 stems  3 misses  4 tenants  5 nodes";

struct Arguments {
  TargetArguments targets;
  double interval_s = 2;
  bool once = false;
  std::string json;
};

absl::StatusOr<int> Watch(const StatusTargets& targets, absl::Duration interval) {
  STEM_ASSIGN(const std::unique_ptr<TopScreen> screen, TopScreen::Open());
  TopPage page = TopPage::kAll;
  bool paused = false;
  TopView view = AskTop(targets);
  absl::Time asked = absl::Now();
  while (true) {
    screen->Show(LayOut(view, page, screen->width(), screen->height()), paused ? std::string("PAUSED   ") + kFoot : kFoot);
    const int key = screen->AwaitKey(paused ? absl::Hours(1) : asked + interval - absl::Now());
    if (key == 'q' || key == 'Q') return kExitOk;
    if (key == ' ') paused = !paused;
    if (key >= '1' && key <= '5') page = static_cast<TopPage>(key - '1');
    if (paused || absl::Now() < asked + interval) continue;
    view = AskTop(targets);
    asked = absl::Now();
  }
}

absl::StatusOr<int> Run(const Arguments& arguments) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  if (!arguments.once && arguments.json.empty()) return Watch(targets, absl::Seconds(arguments.interval_s));
  const TopView view = AskTop(targets);
  if (arguments.json != "-") std::fputs(ToText(LayOut(view, TopPage::kAll, 0, 0)).c_str(), stdout);
  STEM_TRY(WriteJson(arguments.json, view.ToJson().dump(2)));
  return view.silent.empty() ? kExitOk : kExitFailed;
}

}  // namespace

void AddTopCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(
      "top", "live view: hottest stems, misses by cause, tenants, nodes; keys: q, space, 1 to 5");
  AddTargets(command, &arguments->targets);
  command.add_option("--interval", arguments->interval_s, "seconds between refreshes")->check(CLI::Range(0.2, 3600.0))->capture_default_str();
  command.add_flag("--once", arguments->once, "print it once and end; exit code 1 when somebody was silent");
  command.add_option("--json", arguments->json, "write it once as JSON and end; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
