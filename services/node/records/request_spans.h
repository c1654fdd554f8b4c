// A request that ended, as the spans of its trace.
#pragma once

#include <vector>

#include "services/node/records/request_trace.h"
#include "services/runtime/tracing.h"

namespace stem {

// "dram", "ssd"; empty for neither.
const char* TierName(stemcache::v1::Tier tier);

// The context under which what step `step` asks of others nests.
TraceContext StepContext(const TraceContext& request, size_t step);

// The request's own span first, and one for each step.
std::vector<Span> SpansOf(const RequestFacts& facts);

}  // namespace stem
