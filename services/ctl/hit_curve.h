// Hit rate by capacity, as JSON and as a picture.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/progress.h"
#include "services/ctl/simulate.h"

namespace stem {

struct HitCurve {
  struct Line {
    std::string policy;
    bool exact = false;                                // every block, or a sample
    std::vector<std::pair<uint64_t, double>> points;   // capacity in blocks, block hit rate
  };
  std::string trace;                                   // file name, for the title
  std::string definition;
  double ceiling = 0;                                  // with unlimited room
  std::vector<Line> lines;

  nlohmann::json ToJson() const;
  std::string ToSvg() const;
};

// LRU from exact stack distances (plain, whatever options.leaf_first says); the others simulated at some twenty capacities from 100
// blocks to the distinct ones, of a sample of the blocks where the trace is long. options.capacities_blocks is not used; one node
// without SSD tier. Errors: as of RunSimulation.
absl::StatusOr<HitCurve> TraceHitCurve(const SimulateOptions& options, Progress* progress);

}  // namespace stem
