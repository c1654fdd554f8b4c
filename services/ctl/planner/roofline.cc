#include "services/ctl/planner/roofline.h"

#include <algorithm>
#include <cmath>

namespace stem::planner {

// A token picks `experts_used` of `experts`; by so many tokens a share of 1 - (1 - used / experts)^tokens is read.
double Roofline::StepWeightBytes(uint64_t tokens) const {
  const double dense = static_cast<double>(model.parameters - model.routed);
  double routed = 0;
  if (model.experts > 0) {
    const double missed = 1 - static_cast<double>(model.experts_used) / static_cast<double>(model.experts);
    routed = static_cast<double>(model.routed) * (1 - std::pow(missed, static_cast<double>(tokens)));
  }
  return dense * dense_value_bytes + routed * routed_value_bytes;
}

// 2 operations a weight and token (Kaplan et al. 2020, section 2.1) and, for each pair of a token and one before it, 2
// a key and 2 a value element of every query head.
double Roofline::PrefillSeconds(uint64_t context) const {
  const double tokens = static_cast<double>(context);
  double operations = 2 * static_cast<double>(model.active) * tokens;
  for (const LayerGroup& group : model.groups) {
    if (group.kind == LayerKind::kLinear || group.kind == LayerKind::kNone) continue;
    const double reach = group.window > 0 ? std::min<double>(group.window, tokens) : tokens;
    const double pairs = reach * (tokens - reach / 2);
    operations += group.layers * 2.0 * model.heads * (model.key_dim + model.value_dim) * pairs;
  }
  const double compute_s = operations / (tensor * gpu.dense_bf16_tflops * 1e12 * kComputeShare);
  const double read_s = StepWeightBytes(context) / (tensor * gpu.bandwidth_gb_s * 1e9 * kBandwidthShare);
  return std::max(compute_s, read_s);
}

double Roofline::DecodeSeconds(uint64_t context, uint64_t batch) const {
  const double kv_bytes = static_cast<double>(kv.RequestBytes(context)) * static_cast<double>(batch);
  const double read_s = (StepWeightBytes(batch) + kv_bytes) / (tensor * gpu.bandwidth_gb_s * 1e9 * kBandwidthShare);
  const double operations = 2 * static_cast<double>(model.active) * static_cast<double>(batch);
  return std::max(read_s, operations / (tensor * gpu.dense_bf16_tflops * 1e12 * kComputeShare));
}

}  // namespace stem::planner
