#include "services/ctl/progress.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>
#include <unistd.h>

namespace stem {
namespace {

std::string Bar(double fraction, int cells) {
  const auto full = static_cast<size_t>(fraction * cells);
  std::string bar(static_cast<size_t>(cells), ' ');
  std::fill_n(bar.begin(), full, '=');
  if (full < bar.size()) bar[full] = '>';
  return fmt::format("[{}] ", bar);
}

}  // namespace

std::string ProgressText(const ProgressState& state, int bar_cells) {
  const double elapsed_s = std::max(absl::ToDoubleSeconds(state.elapsed), 1e-6);
  const double per_s = static_cast<double>(state.requests) / elapsed_s;
  const double hit_rate =
      state.blocks == 0 ? 0 : static_cast<double>(state.blocks_hit) / static_cast<double>(state.blocks);
  const std::string rates = state.of_blocks ? fmt::format("{:.0f} requests/s  hit rate {:.4f}", per_s, hit_rate)
                                            : fmt::format("{:.2f} requests/s", per_s);
  if (state.requests_total == 0) return fmt::format("{} requests  {}", state.requests, rates);
  const double fraction =
      std::min(1.0, static_cast<double>(state.requests) / static_cast<double>(state.requests_total));
  const uint64_t left = state.requests_total - std::min(state.requests, state.requests_total);
  const std::string time_left =
      per_s > 0 ? fmt::format("{:.0f} s left", static_cast<double>(left) / per_s) : "time left unknown";
  return fmt::format("{}{:3.0f} %  {}/{}  {}  {}", bar_cells > 0 ? Bar(fraction, bar_cells) : "", 100 * fraction,
                     state.requests, state.requests_total, rates, time_left);
}

Progress::Progress(std::FILE* out) : out_(out), terminal_(::isatty(::fileno(out)) == 1) {}

void Progress::Show(const ProgressState& state) {
  // The bar's line is cleared to its end: the last text may have been longer.
  fmt::print(out_, fmt::runtime(terminal_ ? "\r{}\033[K" : "{}\n"), ProgressText(state, terminal_ ? 24 : 0));
  std::fflush(out_);
  drawn_ = true;
}

void Progress::End() {
  if (terminal_ && drawn_) std::fputs("\n", out_);
  drawn_ = false;
}

}  // namespace stem
