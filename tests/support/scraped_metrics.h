// What a daemon's /metrics says, series by series.
#pragma once

#include <cstdlib>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "httplib.h"

namespace stem::testing {

class ScrapedMetrics {
 public:
  // `http`: host:port. Without an answer nothing is there.
  explicit ScrapedMetrics(const std::string& http) {
    httplib::Client client("http://" + http);
    const auto page = client.Get("/metrics");
    if (!page) return;
    for (const absl::string_view line : absl::StrSplit(page->body, '\n', absl::SkipEmpty())) {
      const size_t end = line.rfind(' ');
      if (line[0] != '#' && end != absl::string_view::npos) values_[std::string(line.substr(0, end))] = std::atof(line.data() + end);
    }
  }

  // Of the series as it is written, e.g. `x_total{path="local"}`; -1 when it is not there.
  double Value(const std::string& series) const {
    const auto it = values_.find(series);
    return it == values_.end() ? -1 : it->second;
  }
  // Over all series of `name` with `label`, e.g. `cause="cold"`; empty = all.
  double Sum(const std::string& name, const std::string& label = "") const {
    double sum = 0;
    for (const auto& [series, value] : values_) {
      if ((series == name || absl::StartsWith(series, name + "{")) && absl::StrContains(series, label)) sum += value;
    }
    return sum;
  }

 private:
  std::map<std::string, double> values_;
};

}  // namespace stem::testing
