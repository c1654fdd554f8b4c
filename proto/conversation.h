// What an engine tells of the conversation that a request belongs to, so that the node need not guess it.
#pragma once

#include <cstdint>

namespace stem {

// What comes after the request in its conversation.
enum class Outlook : uint8_t { kUnknown, kWillResume, kEnded };

struct Conversation {
  uint64_t id = 0;  // the engine's choice, e.g. a hash of the chat's id; unlike those of others that share the memory; 0 = not told
  Outlook outlook = Outlook::kUnknown;
};

}  // namespace stem
