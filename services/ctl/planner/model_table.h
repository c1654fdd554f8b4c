// Public models by name, each as the fields of its config.json that decide sizes.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "services/ctl/planner/model_shape.h"

namespace stem::planner {

// Errors: InvalidArgument lists the names.
absl::StatusOr<ModelShape> FindModel(absl::string_view name);

// The entry itself: the fields that ParseModel reads. Errors: InvalidArgument.
absl::StatusOr<nlohmann::json> ModelConfig(absl::string_view name);

std::vector<std::string> ModelNames();

}  // namespace stem::planner
