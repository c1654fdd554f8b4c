#include "services/ctl/top_screen.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>

#define NCURSES_NOMACROS  // some are named as the standard library's functions are
#include <curses.h>

namespace stem {
namespace {

// Colour pairs.
enum Pair : short { kGreen = 1, kYellow, kRed };

attr_t AttributeOf(TopStyle style) {
  switch (style) {
    case TopStyle::kPlain: return A_NORMAL;
    case TopStyle::kTitle: return A_BOLD;
    case TopStyle::kHead: return A_REVERSE;
    case TopStyle::kGood: return COLOR_PAIR(kGreen);
    case TopStyle::kWarn: return COLOR_PAIR(kYellow);
    case TopStyle::kBad: return COLOR_PAIR(kRed) | A_BOLD;
    case TopStyle::kDim: return A_DIM;
  }
  return A_NORMAL;
}

constexpr std::array<int, 4> kEnding = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};

sigset_t EndingSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : kEnding) sigaddset(&signals, number);
  return signals;
}

void Put(const TopLine& line) {
  for (const TopSpan& span : line) {
    attrset(AttributeOf(span.style));
    addnstr(span.text.c_str(), static_cast<int>(span.text.size()));
  }
  attrset(A_NORMAL);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TopScreen>> TopScreen::Open() {
  if (::isatty(STDOUT_FILENO) == 0 || ::isatty(STDIN_FILENO) == 0) {
    return absl::FailedPreconditionError("top needs a terminal; use --once or --json - for scripts");
  }
  std::unique_ptr<TopScreen> screen(new TopScreen());
  const sigset_t ending = EndingSignals();
  pthread_sigmask(SIG_BLOCK, &ending, &screen->before_);
  if (newterm(nullptr, stdout, stdin) == nullptr) {
    return absl::FailedPreconditionError("ncurses does not know this terminal (TERM); use --once");
  }
  screen->open_ = true;
  cbreak();
  noecho();
  keypad(stdscr, TRUE);
  curs_set(0);
  if (has_colors()) {
    start_color();
    use_default_colors();
    init_pair(kGreen, COLOR_GREEN, -1);
    init_pair(kYellow, COLOR_YELLOW, -1);
    init_pair(kRed, COLOR_RED, -1);
  }
  return screen;
}

TopScreen::~TopScreen() {
  if (open_) endwin();
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

bool TopScreen::interrupted() const {
  sigset_t pending;
  if (sigpending(&pending) != 0) return false;
  for (const int number : kEnding) {
    if (sigismember(&pending, number) == 1) return true;
  }
  return false;
}

size_t TopScreen::width() const { return static_cast<size_t>(std::max(COLS, 1)); }

size_t TopScreen::height() const { return static_cast<size_t>(std::max(LINES - 1, 1)); }

void TopScreen::Show(const std::vector<TopLine>& lines, const std::string& foot) {
  erase();
  for (size_t i = 0; i < std::min(lines.size(), height()); ++i) {
    move(static_cast<int>(i), 0);
    Put(lines[i]);
  }
  move(LINES - 1, 0);
  Put({{foot.substr(0, width() - 1), TopStyle::kDim}});
  refresh();
}

int TopScreen::AwaitKey(absl::Duration time) {
  timeout(static_cast<int>(std::max<int64_t>(absl::ToInt64Milliseconds(time), 1)));
  const int key = getch();
  return key == ERR ? 0 : key;
}

}  // namespace stem
