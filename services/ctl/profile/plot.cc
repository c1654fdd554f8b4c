#include "services/ctl/profile/plot.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_replace.h"
#include "services/ctl/planner/figures.h"

namespace stem::profile {
namespace {

// In pixels.
constexpr double kWidth = 860, kLeft = 150, kRight = 90, kTop = 60, kRow = 26, kBar = 18;
constexpr const char* kColdColour = "#1f77b4";
constexpr const char* kWarmColour = "#2ca02c";

struct Bar {
  std::string name;
  bool warm;
  Spread spread;
};

std::string Escaped(const std::string& text) { return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}}); }

std::string Text(double x, double y, const char* anchor, double size, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n", x, y, anchor, size, Escaped(text));
}

std::string BarSvg(const Bar& bar, double y, double per_second) {
  const double p50 = bar.spread.p50 * per_second, p99 = bar.spread.p99 * per_second;
  std::string out = Text(kLeft - 8, y + kBar - 4, "end", 13, fmt::format("{} {}", bar.name, bar.warm ? "warm" : "cold"));
  out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n", kLeft, y, p50, kBar,
                     bar.warm ? kWarmColour : kColdColour);
  out += fmt::format("<line x1=\"{0:.1f}\" y1=\"{2:.1f}\" x2=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"#333\"/>\n", kLeft + p50, kLeft + p99, y + kBar / 2);
  return out + Text(kLeft + p99 + 6, y + kBar - 4, "start", 12, planner::Seconds(bar.spread.p50));
}

}  // namespace

std::string PlotSvg(const Record& record) {
  std::vector<Bar> bars;
  double longest_s = 1e-9;
  for (const char* phase : {"short", "average", "longest", "own", "turns", "concurrent"}) {
    for (const bool warm : {false, true}) {
      const Spread spread = SpreadOf(FirstTokenSeconds(record, phase, warm));
      if (spread.count == 0) continue;
      bars.push_back({phase, warm, spread});
      longest_s = std::max(longest_s, spread.p99);
    }
  }
  const double height = kTop + kRow * static_cast<double>(bars.size()) + 20;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" fill=\"#333\">\n"
      "<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, height);
  out += Text(20, 24, "start", 16, fmt::format("Time to the first token, {}", record.model));
  out += Text(20, 44, "start", 11, fmt::format("{} {}, {}; bars: median, lines: to the 99th percentile", record.engine, record.version, record.date));
  double y = kTop;
  for (const Bar& bar : bars) {
    out += BarSvg(bar, y, (kWidth - kLeft - kRight) / longest_s);
    y += kRow;
  }
  return out + "</svg>\n";
}

}  // namespace stem::profile
