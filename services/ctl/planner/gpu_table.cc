#include "services/ctl/planner/gpu_table.h"

#include "absl/strings/str_cat.h"

namespace stem::planner {
namespace {

struct Entry {
  const char* name;
  double memory_gib, bandwidth_gb_s, dense_bf16_tflops;
};

// Source: the vendors' data sheets; where a sheet gives the figure with sparsity, half of it. Memory is what is left of
// the printed size in GiB, rounded down, as drivers report it.
constexpr Entry kGpus[] = {
    {"a10", 22, 600, 125},   {"a100-40", 39, 1555, 312},   {"a100-80", 79, 2039, 312},  {"b200", 178, 8000, 2250},
    {"h100", 79, 3350, 989}, {"h100-pcie", 79, 2000, 756}, {"h200", 139, 4800, 989},    {"l4", 22, 300, 121},
    {"l40s", 44, 864, 362},  {"mi300x", 191, 5300, 1307},  {"mi325x", 255, 6000, 1307}, {"rtx4090", 23, 1008, 165},
};

}  // namespace

std::string GpuNames() {
  std::string names;
  for (const Entry& entry : kGpus) absl::StrAppend(&names, names.empty() ? "" : ", ", entry.name);
  return names;
}

absl::StatusOr<Gpu> FindGpu(absl::string_view name) {
  for (const Entry& entry : kGpus) {
    if (name != entry.name) continue;
    return Gpu{entry.name, entry.memory_gib, entry.bandwidth_gb_s, entry.dense_bf16_tflops};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no GPU '", name, "' in the table; give --gpu-memory-gib, or one of ", GpuNames()));
}

}  // namespace stem::planner
