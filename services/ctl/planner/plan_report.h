// A plan told: a page for people, JSON with stable names for programs.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/planner/plan.h"

namespace stem::planner {

// The answer first, the tables after it, what was assumed last.
std::string PlanText(const Plan& plan);

// Bytes, tokens, seconds and percent as their names say; what is not known is absent.
nlohmann::json PlanJson(const Plan& plan);

}  // namespace stem::planner
