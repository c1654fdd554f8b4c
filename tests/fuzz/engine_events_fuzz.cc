// Any bytes as a batch of an engine's KV events: refused, or read and applied, and never more than the limits.
#include <cstddef>
#include <cstdint>

#include "proto/check.h"
#include "services/node/engines/engine_blocks.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace stem;
  static const NamespaceSpec spec = {.model = "m", .kv_dtype = "bf16", .layout = "l", .block_tokens = 4, .parts = {{.block_bytes = 4096}}};
  const auto blocks = EngineBlocks::Create(spec, NamespaceFingerprint(), Root(), [](const BlockChange&) {});
  STEM_CHECK(blocks.ok());
  const auto batch = DecodeEngineEvents({reinterpret_cast<const char*>(data), size});
  if (!batch.ok()) return 0;
  for (const EngineEvent& event : batch->events) {
    if (!(*blocks)->Apply(event).ok()) return 0;
  }
  size_t held = 0;
  (*blocks)->Snapshot([&](const BlockChange&) { ++held; });
  STEM_CHECK(held == (*blocks)->stats().blocks);
  (*blocks)->Clear();
  STEM_CHECK((*blocks)->stats().blocks == 0);
  return 0;
}
