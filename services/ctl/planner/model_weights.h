// Counts a model's weights from its config's shapes.
#pragma once

#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/planner/config_fields.h"
#include "services/ctl/planner/model_shape.h"

namespace stem::planner {

// Fills parameters, active, routed, experts, feed_forward and weights of `shape`, whose heads and groups are there.
// `outer`: the whole config; `fields`: the part about text; `kinds`: what each layer attends with.
// Errors: InvalidArgument names a missing field.
absl::Status CountWeights(const nlohmann::json& outer, ConfigFields& fields, const std::vector<LayerKind>& kinds,
                          ModelShape* shape);

}  // namespace stem::planner
