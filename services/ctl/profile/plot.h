// A record as a picture: time to the first token by kind of prompt, cold and warm.
#pragma once

#include <string>

#include "services/ctl/profile/record.h"

namespace stem::profile {

std::string PlotSvg(const Record& record);

}  // namespace stem::profile
