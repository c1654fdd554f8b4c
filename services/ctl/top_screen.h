// The terminal of `stemctl top`: ncurses behind three calls.
#pragma once

#include <csignal>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "proto/status.h"
#include "services/ctl/top.h"

namespace stem {

// Takes the terminal from construction to destruction, and keeps signals that would end the process waiting as long, so that they leave the
// terminal whole. Threads: one; opened before any other.
class TopScreen {
 public:
  // Errors: FailedPrecondition (no terminal, or one that ncurses does not know).
  static absl::StatusOr<std::unique_ptr<TopScreen>> Open();
  ~TopScreen();
  TopScreen(const TopScreen&) = delete;
  TopScreen& operator=(const TopScreen&) = delete;

  size_t width() const;
  size_t height() const;
  // `foot` goes to the last line.
  void Show(const std::vector<TopLine>& lines, const std::string& foot);
  // The key that was pressed within `time`, 0 = none; a changed size is one too.
  int AwaitKey(absl::Duration time);
  // A signal waits for the destruction.
  bool interrupted() const;

 private:
  TopScreen() = default;

  bool open_ = false;
  sigset_t before_ = {};  // the mask of signals
};

}  // namespace stem
