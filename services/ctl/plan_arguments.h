// The model and the machine on a command line, as `plan` and `advise` take them.
#pragma once

#include <string>

#include "CLI/CLI.hpp"
#include "proto/status.h"
#include "services/ctl/planner/plan.h"

namespace stem {

// Must outlive the parse.
struct PlanArguments {
  planner::PlanOptions options;
  planner::Gpu numbers{"GPU", 0, 0, 0};  // when no name is given
  std::string config, model, gpu;
  std::string kv_dtype = "bf16";
  double activation_gib = -1;
};

void AddModelOptions(CLI::App& command, PlanArguments& arguments);
void AddMachineOptions(CLI::App& command, PlanArguments& arguments);

// After the parse: the model, and what words and numbers mean into arguments->options. Errors: InvalidArgument, NotFound.
absl::StatusOr<planner::ModelShape> ReadPlanArguments(PlanArguments* arguments);

}  // namespace stem
