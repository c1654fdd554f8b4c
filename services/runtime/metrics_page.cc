#include "services/runtime/metrics_page.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "prometheus/text_serializer.h"

namespace stem {
namespace {

constexpr size_t kLabelBytesMax = 64;

constexpr std::array<double, 22> kLatencyBuckets = {1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3,
                                                    5e-3, 1e-2, 2e-2, 5e-2, 0.1,  0.2,  0.5,  1.0,  2.0,  5.0,  10.0};
constexpr std::array<double, 12> kAgeBuckets = {0.1, 1, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600};
static_assert(kLatencyBuckets.size() < DurationHistogram::kBucketsMax);

}  // namespace

std::span<const double> LatencyBuckets() { return kLatencyBuckets; }

std::span<const double> AgeBuckets() { return kAgeBuckets; }

void DurationHistogram::Observe(absl::Duration time) {
  const auto bucket = static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), absl::ToDoubleSeconds(time)) - bounds_.begin());
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  // Clocks that are set back make negative times.
  nanoseconds_.fetch_add(static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Nanoseconds(time), 0)), std::memory_order_relaxed);
}

prometheus::ClientMetric::Histogram DurationHistogram::Collect() const {
  prometheus::ClientMetric::Histogram out;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    out.sample_count += counts_[i].load(std::memory_order_relaxed);
    out.bucket.push_back({.cumulative_count = out.sample_count, .upper_bound = bounds_[i]});
  }
  out.sample_count += counts_[bounds_.size()].load(std::memory_order_relaxed);
  out.sample_sum = static_cast<double>(nanoseconds_.load(std::memory_order_relaxed)) / 1e9;
  return out;
}

void CounterSet::Add(absl::string_view value, uint64_t count) {
  for (size_t i = 0; i < values_.size(); ++i) {
    if (values_[i] == value) Add(i, count);
  }
}

prometheus::ClientMetric& MetricsPage::Add(const std::string& name, const std::string& help, prometheus::MetricType type,
                                           MetricLabels labels) {
  prometheus::MetricFamily& family = families_[name];
  if (family.name.empty()) {
    family.name = name;
    family.help = help;
    family.type = type;
  }
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  metric.label = std::move(labels);
  return metric;
}

void MetricsPage::Counter(const std::string& name, const std::string& help, double value, MetricLabels labels) {
  Add(name, help, prometheus::MetricType::Counter, std::move(labels)).counter.value = value;
}

void MetricsPage::Gauge(const std::string& name, const std::string& help, double value, MetricLabels labels) {
  Add(name, help, prometheus::MetricType::Gauge, std::move(labels)).gauge.value = value;
}

void MetricsPage::Histogram(const std::string& name, const std::string& help, const DurationHistogram& histogram, MetricLabels labels) {
  Add(name, help, prometheus::MetricType::Histogram, std::move(labels)).histogram = histogram.Collect();
}

void MetricsPage::Counters(const std::string& name, const std::string& help, const std::string& label, const CounterSet& counts) {
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts.value(i)[0] != '\0') Counter(name, help, static_cast<double>(counts.Get(i)), {{label, counts.value(i)}});
  }
}

std::vector<prometheus::MetricFamily> MetricsPage::Families() const {
  std::vector<prometheus::MetricFamily> families;
  for (const auto& [name, family] : families_) families.push_back(family);
  return families;
}

std::string MetricsPage::ToText() const { return prometheus::TextSerializer().Serialize(Families()); }

double MetricsPage::Value(const std::string& name, const MetricLabels& labels) const {
  const auto family = families_.find(name);
  if (family == families_.end()) return 0;
  for (const prometheus::ClientMetric& metric : family->second.metric) {
    if (metric.label == labels) return family->second.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
  }
  return 0;
}

std::string LabelText(absl::string_view text) {
  std::string label(text.substr(0, kLabelBytesMax));
  for (char& c : label) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '_';
  }
  return label;
}

}  // namespace stem
