// stemctl top: a cluster's traffic, live.
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/mutex.h"
#include "services/ctl/commands.h"
#include "services/ctl/targets.h"
#include "services/ctl/top.h"
#include "services/ctl/top_screen.h"
#include "services/runtime/config.h"

namespace stem {
namespace {

constexpr char kFoot[] = "q quit   space pause   1 all  2 stems  3 misses  4 tenants  5 nodes  6 peers";
constexpr absl::Duration kOnceApart = absl::Seconds(1);

struct Arguments {
  TargetArguments targets;
  double interval_s = 2;
  bool once = false;
  std::string json;
};

constexpr absl::Duration kLook = absl::Milliseconds(100);  // for answers and signals, while no key is pressed

// Asks on a thread of its own, so that keys are heard while somebody does not answer.
class Asker {
 public:
  explicit Asker(StatusTargets targets) : targets_(std::move(targets)) {}
  ~Asker() {
    if (thread_.joinable()) thread_.join();
  }
  Asker(const Asker&) = delete;
  Asker& operator=(const Asker&) = delete;

  bool asking() const { return thread_.joinable(); }
  void Ask() {
    thread_ = std::thread([this] {
      TopView view = AskTop(targets_);
      MutexLock lock(mutex_);
      answer_ = std::move(view);
    });
  }
  // What came since the last call.
  std::optional<TopView> Take() {
    std::optional<TopView> view;
    {
      MutexLock lock(mutex_);
      view.swap(answer_);
    }
    if (view.has_value()) thread_.join();
    return view;
  }

 private:
  const StatusTargets targets_;
  Mutex mutex_;
  std::optional<TopView> answer_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

std::string Foot(bool paused, bool late) {
  return absl::StrCat(paused ? "PAUSED   " : late ? "waiting for answers   " : "", kFoot);
}

absl::StatusOr<int> Watch(const StatusTargets& targets, absl::Duration interval) {
  STEM_ASSIGN(std::unique_ptr<TopScreen> screen, TopScreen::Open());  // before any thread
  Asker asker(targets);
  TopPage page = TopPage::kAll;
  bool paused = false;
  std::optional<TopView> view;
  absl::Time asked = absl::InfinitePast();
  while (!screen->interrupted()) {
    const absl::Time now = absl::Now();
    if (!asker.asking() && !paused && now >= asked + interval) {
      asker.Ask();
      asked = now;
    }
    const std::vector<TopLine> lines =
        view.has_value() ? LayOut(*view, page, screen->width(), screen->height()) : std::vector<TopLine>{{{"asking the cluster"}}};
    screen->Show(lines, Foot(paused, asker.asking() && now >= asked + interval));
    const int key = screen->AwaitKey(kLook);
    if (key == 'q' || key == 'Q') break;
    if (key == ' ') paused = !paused;
    if (key >= '1' && key <= '6') page = static_cast<TopPage>(key - '1');
    if (std::optional<TopView> next = asker.Take()) {
      if (view.has_value()) RateLinks(*view, &*next);
      view = std::move(next);
    }
  }
  screen.reset();  // a signal that came is delivered here
  if (asker.asking()) std::quick_exit(kExitOk);  // nobody waits for those who do not answer
  return kExitOk;
}

absl::StatusOr<int> Run(const Arguments& arguments) {
  STEM_ASSIGN(const StatusTargets targets, TargetsOf(arguments.targets));
  STEM_TRY(RequireSomebody(targets));
  STEM_TRY(ReadSecret(targets.secret_file).status());
  if (!arguments.once && arguments.json.empty()) return Watch(targets, absl::Seconds(arguments.interval_s));
  TopView view = AskTop(targets);
  if (!view.links.empty()) {  // rates are differences
    absl::SleepFor(kOnceApart);
    TopView later = AskTop(targets);
    RateLinks(view, &later);
    view = std::move(later);
  }
  if (arguments.json != "-") STEM_TRY(PrintText(ToText(LayOut(view, TopPage::kAll, 0, 0))));
  STEM_TRY(WriteJson(arguments.json, view.ToJson().dump(2, ' ', false, nlohmann::json::error_handler_t::replace)));
  return view.silent.empty() ? kExitOk : kExitFailed;
}

}  // namespace

void AddTopCommand(CLI::App& app, Command* run) {
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand(
      "top", "live view: hottest stems, misses by cause, nodes, who reads from whom, tenants; keys: q, space, 1 to 6");
  AddTargets(command, &arguments->targets);
  command.add_option("--interval", arguments->interval_s, "seconds between refreshes")->check(CLI::Range(0.2, 3600.0))->capture_default_str();
  command.add_flag("--once", arguments->once, "print it once and end; exit code 1 when somebody was silent");
  command.add_option("--json", arguments->json, "write it once as JSON and end; - = standard output");
  command.callback([arguments, run] { *run = [arguments] { return Run(*arguments); }; });
}

}  // namespace stem
