// Whatever stands in etcd under the cluster's prefix: no input may crash, and what is refused may change nothing.
#include <cstddef>
#include <cstdint>
#include <string>

#include "proto/check.h"
#include "services/runtime/fleet_values.h"

// The first line is the key behind the prefix, the rest the value.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  const std::string key = "/c/" + text.substr(0, line);
  const std::string value = line == text.npos ? "" : text.substr(line + 1);
  stem::FleetState state("/c", {});
  const bool refused = !state.Apply({.revision = 1, .changes = {{.key = key, .value = value, .revision = 1}}}).empty();
  const auto now = state.Snapshot();
  const size_t known = now->nodes.size() + now->directories.size() + now->tenants.size() + now->shared_groups.size() +
                       now->namespaces.size() + (now->secret != nullptr ? 1 : 0);
  STEM_CHECK(known == (refused ? 0 : 1));
  STEM_CHECK(state.refused() == (refused ? 1 : 0));
  return 0;
}
