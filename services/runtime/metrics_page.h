// How our processes count, and how they show it: counters and histograms that any thread adds to without a lock or an allocation, and the
// page that one scrape reads, in prometheus-cpp's model. The library's own histogram takes a lock for each observation.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "prometheus/metric_family.h"

namespace stem {

using MetricLabels = std::vector<prometheus::ClientMetric::Label>;

// Boundaries for every latency histogram, in seconds: 1 us to 10 s, three a decade, so that histograms of
// different steps of one request can be laid over each other.
std::span<const double> LatencyBuckets();
// Boundaries for ages, in seconds: 0.1 s to a week.
std::span<const double> AgeBuckets();

// Durations, by bucket. Threads: any.
class DurationHistogram {
 public:
  static constexpr size_t kBucketsMax = 24;

  // `bounds_seconds`: ascending, at most kBucketsMax - 1, and alive as long as this.
  explicit DurationHistogram(std::span<const double> bounds_seconds = LatencyBuckets()) : bounds_(bounds_seconds) {}

  void Observe(absl::Duration time);
  prometheus::ClientMetric::Histogram Collect() const;

 private:
  const std::span<const double> bounds_;
  std::array<std::atomic<uint64_t>, kBucketsMax> counts_ = {};  // by bucket; the last that is used has what exceeds all bounds
  std::atomic<uint64_t> nanoseconds_{0};
};

// One counter for each of a label's values, which are known beforehand and so shown while they are 0. Threads: any.
class CounterSet {
 public:
  // `values` are literals. An empty one is counted and not shown.
  explicit CounterSet(std::span<const char* const> values)
      : values_(values.begin(), values.end()), counts_(std::make_unique<std::atomic<uint64_t>[]>(values.size())) {}

  void Add(size_t index, uint64_t count = 1) { counts_[index].fetch_add(count, std::memory_order_relaxed); }
  // `value` is one of the set's.
  void Add(absl::string_view value, uint64_t count = 1);
  uint64_t Get(size_t index) const { return counts_[index].load(std::memory_order_relaxed); }
  size_t size() const { return values_.size(); }
  const char* value(size_t index) const { return values_[index]; }

 private:
  const std::vector<const char*> values_;
  const std::unique_ptr<std::atomic<uint64_t>[]> counts_;
};

// What one scrape is shown. Metrics of one name become one family, with the help of the first. Threads: one at a time.
class MetricsPage {
 public:
  void Counter(const std::string& name, const std::string& help, double value, MetricLabels labels = {});
  void Gauge(const std::string& name, const std::string& help, double value, MetricLabels labels = {});
  void Histogram(const std::string& name, const std::string& help, const DurationHistogram& histogram, MetricLabels labels = {});
  // One counter for each value of `label`.
  void Counters(const std::string& name, const std::string& help, const std::string& label, const CounterSet& counts);

  // In order of their names.
  std::vector<prometheus::MetricFamily> Families() const;
  // The text that Prometheus reads.
  std::string ToText() const;
  // The value of one counter or gauge; 0 when it is not there.
  double Value(const std::string& name, const MetricLabels& labels = {}) const;

 private:
  prometheus::ClientMetric& Add(const std::string& name, const std::string& help, prometheus::MetricType type, MetricLabels labels);

  std::map<std::string, prometheus::MetricFamily> families_;
};

// `text` as a label's value: what is not printable ASCII becomes '_', and what exceeds 64 bytes is cut.
std::string LabelText(absl::string_view text);

}  // namespace stem
