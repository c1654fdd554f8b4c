// How long a prefill and a decode step take at best, by what the GPU's arithmetic and memory allow. Estimates.
#pragma once

#include <cstdint>

#include "services/ctl/planner/gpu_table.h"
#include "services/ctl/planner/kv_bytes.h"
#include "services/ctl/planner/model_shape.h"

namespace stem::planner {

// Shares of the peak that are taken as reached: assumptions, of the order that engines report for large models.
inline constexpr double kComputeShare = 0.5;
inline constexpr double kBandwidthShare = 0.8;

struct Roofline {
  const ModelShape& model;
  const KvBytes& kv;
  const Gpu& gpu;  // with bandwidth and arithmetic
  uint32_t tensor = 1;
  double dense_value_bytes = 2;   // of weights outside routed experts
  double routed_value_bytes = 2;

  // Seconds until the first token of one prompt of `context` tokens, alone. Pipeline stages work one after the other.
  double PrefillSeconds(uint64_t context) const;
  // Seconds of a step that gives each of `batch` requests of `context` tokens one more.
  double DecodeSeconds(uint64_t context, uint64_t batch) const;

 private:
  double StepWeightBytes(uint64_t tokens) const;
};

}  // namespace stem::planner
