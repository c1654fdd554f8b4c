// How far a long command is: a bar that is redrawn on a terminal, a line every five seconds otherwise.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/time/time.h"

namespace stem {

struct ProgressState {
  uint64_t requests = 0;
  uint64_t requests_total = 0;  // 0 = not known
  uint64_t blocks = 0;
  uint64_t blocks_hit = 0;
  absl::Duration elapsed;
  bool of_blocks = true;        // false: requests have no blocks, so no hit rate is shown
};

// "[=====>    ]  52 %  6256/12031  118 requests/s  hit rate 0.3121  48 s left". `bar_cells` 0 leaves the bar out.
std::string ProgressText(const ProgressState& state, int bar_cells);

// Draws on `out`, which it borrows. Not for two threads at once.
class Progress {
 public:
  // Asks the system whether `out` is a terminal.
  explicit Progress(std::FILE* out);

  // How often Show() is worth calling.
  absl::Duration interval() const { return terminal_ ? absl::Milliseconds(200) : absl::Seconds(5); }
  void Show(const ProgressState& state);
  // Ends the bar, so that what follows starts a line of its own.
  void End();

 private:
  std::FILE* const out_;
  const bool terminal_;
  bool drawn_ = false;
};

}  // namespace stem
