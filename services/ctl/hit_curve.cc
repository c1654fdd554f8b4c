#include "services/ctl/hit_curve.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <span>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/stack_distance.h"
#include "services/ctl/trace_batches.h"

namespace stem {
namespace {

constexpr uint64_t kCapacityMin = 100;
constexpr double kCapacityStep = 1.45;
constexpr uint64_t kExactReferences = 4'000'000;  // longer traces are sampled
constexpr std::array<const char*, 11> kColours = {"#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b",
                                                  "#17becf", "#e377c2", "#bcbd22", "#7f7f7f", "#444444"};

// The picture, in pixels.
constexpr double kWidth = 860, kHeight = 500, kLeft = 64, kRight = 150, kTop = 56, kBottom = 56;

absl::StatusOr<StackDistance> Distances(const SimulateOptions& options) {
  STEM_ASSIGN(const std::unique_ptr<TraceBatches> batches, TraceBatches::Open(options));
  StackDistance distances;
  PreparedBatch batch;
  for (;;) {
    STEM_ASSIGN(const bool more, batches->Next(&batch));
    if (!more) return distances;
    for (const PreparedRequest& request : batch.requests) {
      distances.Request(std::span(batch.blocks).subspan(request.first, request.count), request.counted);
    }
  }
}

double Rate(const StackDistance& distances, uint64_t capacity) {
  return distances.references() == 0
             ? 0
             : static_cast<double>(distances.Hits(capacity)) / static_cast<double>(distances.references());
}

// Where a point lies in the picture.
struct Axes {
  double capacity_min = 0, capacity_max = 0, rate_max = 0;

  double X(double capacity) const {
    return kLeft + (kWidth - kLeft - kRight) * std::log(capacity / capacity_min) / std::log(capacity_max / capacity_min);
  }
  double Y(double rate) const { return kHeight - kBottom - (kHeight - kTop - kBottom) * rate / rate_max; }
};

std::string Text(double x, double y, const char* anchor, double size, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" font-size=\"{}\">{}</text>\n", x, y, anchor, size, text);
}

std::string GridLine(double x1, double y1, double x2, double y2) {
  return fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#e4e4e4\"/>\n", x1, y1, x2, y2);
}

std::string Grid(const Axes& axes) {
  std::string out;
  const double step = axes.rate_max > 0.5 ? 0.1 : 0.05;
  for (double rate = 0; rate <= axes.rate_max + 1e-9; rate += step) {
    out += GridLine(kLeft, axes.Y(rate), kWidth - kRight, axes.Y(rate));
    out += Text(kLeft - 8, axes.Y(rate) + 4, "end", 12, fmt::format("{:.2f}", rate));
  }
  for (double decade = 1; decade <= axes.capacity_max; decade *= 10) {
    for (const double part : {1.0, 2.0, 5.0}) {
      const double capacity = decade * part;
      if (capacity < axes.capacity_min || capacity > axes.capacity_max) continue;
      out += GridLine(axes.X(capacity), kTop, axes.X(capacity), kHeight - kBottom);
      const std::string label = capacity >= 1e6 ? fmt::format("{:g}M", capacity / 1e6)
                                : capacity >= 1000 ? fmt::format("{:g}k", capacity / 1000) : fmt::format("{:g}", capacity);
      out += Text(axes.X(capacity), kHeight - kBottom + 18, "middle", 12, label);
    }
  }
  return out;
}

}  // namespace

absl::StatusOr<HitCurve> TraceHitCurve(const SimulateOptions& options, Progress* progress) {
  STEM_ASSIGN(const StackDistance distances, Distances(options));
  SimulateOptions sampled = options;
  sampled.nodes = 1;
  sampled.ssd_blocks = 0;
  sampled.capacities_blocks.clear();
  const uint64_t most = std::max<uint64_t>(distances.capacity_max(), 2 * kCapacityMin);
  for (double capacity = kCapacityMin; capacity < static_cast<double>(most); capacity *= kCapacityStep) {
    sampled.capacities_blocks.push_back(static_cast<uint64_t>(capacity));
  }
  sampled.capacities_blocks.push_back(most);
  while ((distances.references() >> sampled.sample_shift) > kExactReferences) ++sampled.sample_shift;
  std::erase_if(sampled.policies, [](const SimulatedPolicy& policy) { return policy.kind == PolicyKind::kLru; });

  HitCurve curve{.trace = std::filesystem::path(options.trace).filename().string(),
                 .definition = HitRateDefinition(sampled.policies.empty() ? options : sampled),
                 .ceiling = Rate(distances, ~uint64_t{0})};
  SimulateReport report;
  if (!sampled.policies.empty()) {
    STEM_ASSIGN(report, RunSimulation(sampled, progress));
  }
  for (const SimulatedPolicy& policy : options.policies) {
    HitCurve::Line line{.policy = policy.name(), .exact = policy.kind == PolicyKind::kLru || sampled.sample_shift == 0};
    for (const uint64_t capacity : sampled.capacities_blocks) {
      if (policy.kind == PolicyKind::kLru) line.points.emplace_back(capacity, Rate(distances, capacity));
    }
    for (const SimulateResult& result : report.results) {
      if (result.policy == line.policy) line.points.emplace_back(result.capacity_blocks, result.block_hit_rate());
    }
    curve.lines.push_back(std::move(line));
  }
  return curve;
}

nlohmann::json HitCurve::ToJson() const {
  nlohmann::json out = {{"trace", trace}, {"hit_rate_definition", definition}, {"ceiling", ceiling}};
  for (const Line& line : lines) {
    nlohmann::json points = nlohmann::json::array();
    for (const auto& [capacity, rate] : line.points) {
      points.push_back({{"capacity_blocks", capacity}, {"block_hit_rate", std::round(rate * 1e6) / 1e6}});
    }
    out["lines"].push_back({{"policy", line.policy}, {"exact", line.exact}, {"points", points}});
  }
  return out;
}

std::string HitCurve::ToSvg() const {
  Axes axes{.capacity_min = kCapacityMin, .capacity_max = 2 * kCapacityMin, .rate_max = 0.1};
  for (const Line& line : lines) {
    for (const auto& [capacity, rate] : line.points) {
      axes.capacity_max = std::max(axes.capacity_max, static_cast<double>(capacity));
      axes.rate_max = std::max(axes.rate_max, std::ceil(rate * 20 + 0.2) / 20);
    }
  }
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" fill=\"#333\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n",
      kWidth, kHeight);
  out += Text(kLeft, 24, "start", 16, fmt::format("Block hit rate by capacity, {}", trace));
  out += Text(kLeft, 42, "start", 11, definition);
  out += Grid(axes);
  out += Text((kLeft + kWidth - kRight) / 2, kHeight - 14, "middle", 13, "capacity, blocks");
  out += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#888\" stroke-dasharray=\"6 4\"/>\n", kLeft,
                     axes.Y(ceiling), kWidth - kRight, axes.Y(ceiling));
  out += Text(kLeft + 6, axes.Y(ceiling) - 5, "start", 11, fmt::format("unlimited room: {:.4f}", ceiling));
  double legend = kTop + 12;
  for (size_t i = lines.size(); i-- > 0;) {  // the first is drawn last, above the others
    const Line& line = lines[i];
    std::string points;
    for (const auto& [capacity, rate] : line.points) {
      points += fmt::format("{:.1f},{:.1f} ", axes.X(static_cast<double>(capacity)), axes.Y(rate));
    }
    out += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" points=\"{}\"/>\n", kColours[i % kColours.size()],
                       i == 0 ? 3 : 1.6, points);
  }
  for (size_t i = 0; i < lines.size(); ++i, legend += 20) {
    out += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\"3\"/>\n",
                       kWidth - kRight + 10, legend - 4, kWidth - kRight + 34, legend - 4, kColours[i % kColours.size()]);
    out += Text(kWidth - kRight + 40, legend, "start", 13, lines[i].policy + (lines[i].exact ? "" : " (sampled)"));
  }
  return out + "</svg>\n";
}

}  // namespace stem
