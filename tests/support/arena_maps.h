// Which arenas this process has mapped, with all nodes and clients that run in it.
#pragma once

#include <cstddef>
#include <fstream>
#include <string>

namespace stem::testing {

// Mappings of arenas of the group `default`.
inline size_t ArenasMapped() {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find("memfd:stemcache-default") != std::string::npos;
  return count;
}

}  // namespace stem::testing
