// In which order the blocks of one Put lie on disk: each behind its parent, so that a stem is read in one sweep.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "storage/spill/spill_store.h"

namespace stem {

// Positions in `writes`, each once: chains from their start, the order of `writes` between them.
std::vector<size_t> StemOrder(std::span<const SpillWrite> writes);

}  // namespace stem
