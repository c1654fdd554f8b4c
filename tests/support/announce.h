// Messages of an announce stream, as short to write as tests need them. Every message interns number 1 as its space.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/block_key.h"
#include "proto/validate.h"

namespace stem::testing {

// Distinct keys whose words are spread like real ones.
inline BlockKey KeyOf(uint64_t i) {
  BlockKey key;
  key.low = i * 0x9E3779B97F4A7C15ULL + 1;
  key.high = (i + 7) * 0xC2B2AE3D27D4EB4FULL;
  return key;
}

inline std::vector<BlockKey> KeysOf(uint64_t first, uint64_t count) {
  std::vector<BlockKey> keys;
  for (uint64_t i = first; i < first + count; ++i) keys.push_back(KeyOf(i));
  return keys;
}

inline NamespaceFingerprint SpaceOf(uint64_t i) {
  NamespaceFingerprint space;
  space.low = i;
  space.high = ~i;
  return space;
}

struct Change {
  std::vector<BlockKey> keys;
  v1::Tier tier = v1::TIER_DRAM;  // unspecified: a remove
  v1::RemoveReason reason = v1::REMOVE_REASON_UNSPECIFIED;
};

inline Change Adds(std::vector<BlockKey> keys, v1::Tier tier = v1::TIER_DRAM) { return {std::move(keys), tier}; }

inline Change Removes(std::vector<BlockKey> keys, v1::RemoveReason reason = v1::REMOVE_REASON_EVICTED) {
  return {std::move(keys), v1::TIER_UNSPECIFIED, reason};
}

template <typename Message>
void Fill(Message& message, const NamespaceFingerprint& space, const std::vector<Change>& changes) {
  v1::InternedNamespace* interned = message.add_namespaces();
  interned->set_number(1);
  interned->set_fingerprint(std::string(space.bytes()));
  for (const Change& change : changes) {
    v1::ChangeRun* run = message.add_runs();
    run->set_namespace_(1);
    run->set_remove(change.tier == v1::TIER_UNSPECIFIED);
    run->set_tier(change.tier);
    run->set_reason(change.reason);
    run->set_keys(PackKeys(change.keys));
  }
}

inline v1::AnnounceMessage HelloOf(const std::string& node, uint64_t incarnation, uint64_t uptime_ms = 0) {
  v1::AnnounceMessage message;
  v1::NodeAddress* address = message.mutable_hello()->mutable_node();
  address->set_node(node);
  address->set_incarnation(incarnation);
  address->set_peer_address(node + ":1");
  message.mutable_hello()->set_uptime_ms(uptime_ms);
  return message;
}

inline v1::AnnounceMessage BatchOf(uint64_t sequence, const NamespaceFingerprint& space,
                                   const std::vector<Change>& changes) {
  v1::AnnounceMessage message;
  message.mutable_batch()->set_sequence(sequence);
  Fill(*message.mutable_batch(), space, changes);
  return message;
}

inline v1::AnnounceMessage ChunkOf(uint64_t sequence, uint32_t index, bool last, const NamespaceFingerprint& space,
                                   const std::vector<Change>& changes) {
  v1::AnnounceMessage message;
  message.mutable_chunk()->set_sequence(sequence);
  message.mutable_chunk()->set_index(index);
  message.mutable_chunk()->set_last(last);
  Fill(*message.mutable_chunk(), space, changes);
  return message;
}

// A whole snapshot in one chunk.
inline v1::AnnounceMessage SnapshotOf(uint64_t sequence, const NamespaceFingerprint& space,
                                      const std::vector<Change>& changes = {}) {
  return ChunkOf(sequence, 0, true, space, changes);
}

inline v1::AnnounceMessage BeatOf(uint64_t sequence) {
  v1::AnnounceMessage message;
  message.mutable_heartbeat()->set_sequence(sequence);
  return message;
}

}  // namespace stem::testing
