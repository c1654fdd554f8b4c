// Advice told: a page for people, JSON with stable names for programs.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/planner/advice.h"
#include "services/ctl/planner/engine_advice.h"

namespace stem::planner {

// What was chosen, then each engine: its command first, then why.
std::string AdviceText(const Advice& advice, const std::vector<EngineAdvice>& engines);

nlohmann::json AdviceJson(const Advice& advice, const std::vector<EngineAdvice>& engines);

}  // namespace stem::planner
