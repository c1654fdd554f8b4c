// Probes: how the same prompt is recognised under another namespace of its tenant, so that a miss can be told as
// `incompatible`. Source: proto/FORMAT.md, "Probes", with a golden vector.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/strings/string_view.h"
#include "proto/block_key.h"

namespace stem {

inline constexpr size_t kProbeTokens = 16;  // a prompt that is shorter has no probe

using ProbeKey = std::array<uint8_t, 32>;

// Of a tenant or a declared shared group, whatever its namespaces. `cluster_secret`: 32 bytes or more, the same on every node.
ProbeKey ProbeKeyOf(std::span<const uint8_t> cluster_secret, absl::string_view trust_group);

// `salt`: of the chain; users whom salts keep apart do not learn of each other's prompts.
Probe ProbeOf(const ProbeKey& key, std::span<const uint32_t, kProbeTokens> first_tokens, absl::string_view salt);

}  // namespace stem
