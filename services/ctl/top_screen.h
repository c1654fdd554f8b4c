// The terminal of `stemctl top`: ncurses behind three calls.
#pragma once

#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "proto/status.h"
#include "services/ctl/top.h"

namespace stem {

// Takes the terminal from construction to destruction. Threads: one.
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

 private:
  TopScreen() = default;
};

}  // namespace stem
