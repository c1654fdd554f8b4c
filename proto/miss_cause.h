// The words for miss causes in reports, logs and metric labels: "node_lost" for MISS_CAUSE_NODE_LOST.
#pragma once

#include <string>

#include "stemcache/v1/types.pb.h"

namespace stem {

std::string CauseName(stemcache::v1::MissCause cause);

}  // namespace stem
