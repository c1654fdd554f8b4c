#include "proto/validate_replies.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

constexpr uint64_t kSlotHeaderBytes = 128;  // proto/FORMAT.md, "Slots"
constexpr int kWarningsMax = 64;

absl::Status Bad(absl::string_view field, const auto& value, absl::string_view right) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; ", right));
}

// Misses cover first..end without gaps, one known cause each.
absl::Status CoveredByMisses(const google::protobuf::RepeatedPtrField<v1::Miss>& misses, uint64_t first, uint64_t end) {
  uint64_t next = first;
  for (const v1::Miss& miss : misses) {
    if (miss.first() != next || miss.count() == 0) {
      return Bad("miss.first", miss.first(), absl::StrCat("misses must go on at ", next, ", with a count above 0"));
    }
    if (miss.cause() < v1::MISS_CAUSE_REFUSED || miss.cause() > v1::MISS_CAUSE_BELOW_BLOCK) {
      return Bad("miss.cause", static_cast<int>(miss.cause()), "it must be 1 to 13");
    }
    next += miss.count();
  }
  if (next == end) return absl::OkStatus();
  return Bad("the end of misses", next, absl::StrCat("it must be ", end));
}

absl::Status ValidateGeometry(const v1::ArenaMap& arena, uint64_t block_bytes_max) {
  STEM_TRY(ValidateArenaMap(arena));
  if (arena.payload_offset() < kSlotHeaderBytes) {
    return Bad("arena.payload_offset", arena.payload_offset(),
               absl::StrCat("the slot header before it takes ", kSlotHeaderBytes, " bytes"));
  }
  if (arena.slot_bytes() - arena.payload_offset() < block_bytes_max) {
    return Bad("arena.slot_bytes", arena.slot_bytes(),
               absl::StrCat("behind payload_offset ", arena.payload_offset(), " it must hold the namespace's ",
                            block_bytes_max, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AttachGrant> ValidateAttachReply(const v1::AttachReply& message, const NamespaceSpec& spec,
                                                size_t descriptors) {
  AttachGrant grant;
  if (message.session_token().size() != 16) {
    return Bad("the length of session_token", message.session_token().size(), "it must be 16 bytes");
  }
  if (message.root().size() != grant.root.size()) {
    return Bad("the length of root", message.root().size(), "it must be 32 bytes");
  }
  if (!message.probe_key().empty() && message.probe_key().size() != sizeof(ProbeKey)) {
    return Bad("the length of probe_key", message.probe_key().size(), "it must be 32 bytes, or 0 of a node that knows no probes");
  }
  if (message.node().empty() || message.node().size() > 128) {
    return Bad("the length of node", message.node().size(), "it must be 1 to 128 bytes");
  }
  if (message.incarnation() == 0) return Bad("incarnation", 0, "it must be a random number above 0");
  if (message.arenas().empty() || message.arenas_size() > static_cast<int>(kAttachArenasMax)) {
    return Bad("the number of arenas", message.arenas_size(), absl::StrCat("it must be 1 to ", kAttachArenasMax));
  }
  size_t expected = message.staging_bytes() > 0 ? 1 : 0;
  for (const v1::ArenaMap& arena : message.arenas()) expected += arena.slot_map_bytes() > 0 ? 2 : 1;
  if (descriptors != expected) {
    return Bad("the number of descriptors", descriptors,
               absl::StrCat("staging, arenas and slot maps of the reply need ", expected));
  }
  STEM_ASSIGN(grant.space, ValidateFingerprint(message.namespace_fingerprint()));
  for (const v1::ArenaMap& arena : message.arenas()) {
    STEM_TRY(ValidateGeometry(arena, spec.block_bytes_max()));
    const bool known = std::any_of(grant.arenas.begin(), grant.arenas.end(),
                                   [&](const v1::ArenaMap& each) { return each.arena() == arena.arena(); });
    if (known) return Bad("arena", arena.arena(), "it is named twice");
    grant.arenas.push_back(arena);
  }
  std::memcpy(grant.root.data(), message.root().data(), grant.root.size());
  if (!message.probe_key().empty()) {
    grant.probe_key.emplace();
    std::memcpy(grant.probe_key->data(), message.probe_key().data(), sizeof(ProbeKey));
  }
  grant.session_token = message.session_token();
  grant.node = message.node();
  grant.incarnation = message.incarnation();
  grant.staging_bytes = message.staging_bytes();
  const int warnings = std::min(message.warnings_size(), kWarningsMax);
  grant.warnings.assign(message.warnings().begin(), message.warnings().begin() + warnings);
  return grant;
}

absl::StatusOr<HostPeerGrant> ValidateHostPeerReply(const v1::AttachReply& message, size_t descriptors) {
  if (message.incarnation() == 0) return Bad("incarnation", 0, "it must be a random number above 0");
  if (message.arenas().empty() || message.arenas_size() > static_cast<int>(kAttachArenasMax)) {
    return Bad("the number of arenas", message.arenas_size(), absl::StrCat("it must be 1 to ", kAttachArenasMax));
  }
  if (descriptors != static_cast<size_t>(message.arenas_size())) {
    return Bad("the number of descriptors", descriptors, absl::StrCat("the arenas need ", message.arenas_size()));
  }
  HostPeerGrant grant{.incarnation = message.incarnation()};
  for (const v1::ArenaMap& arena : message.arenas()) {
    if (arena.bytes() == 0 || arena.bytes() > kArenaBytesMax) {
      return Bad("arena.bytes", arena.bytes(), absl::StrCat("it must be 1 to ", kArenaBytesMax));
    }
    if (!grant.arenas.empty() && arena.arena() <= grant.arenas.back().arena()) {
      return Bad("arena", arena.arena(), "ids must ascend");
    }
    grant.arenas.push_back(arena);
  }
  return grant;
}

absl::Status ValidateArenaOffer(const v1::ArenaOffer& message, const NamespaceSpec& spec, size_t descriptors) {
  if (message.arena().arena() < kOfferedArenaFirst) {
    return Bad("arena", message.arena().arena(), absl::StrCat("offered ones begin at ", kOfferedArenaFirst));
  }
  if (message.node().empty() || message.node().size() > 128) {
    return Bad("the length of node", message.node().size(), "it must be 1 to 128 bytes");
  }
  if (message.arena().bytes() == 0) {
    return descriptors == 0 ? absl::OkStatus() : Bad("the number of descriptors", descriptors, "a withdrawal has none");
  }
  if (descriptors != 1) return Bad("the number of descriptors", descriptors, "an offer has one");
  return ValidateGeometry(message.arena(), spec.block_bytes_max());
}

absl::Status ValidateAcquired(const v1::Acquired& message, uint32_t blocks, uint32_t parts,
                              const std::vector<v1::ArenaMap>& arenas) {
  if (message.matched_blocks() > blocks) {
    return Bad("matched_blocks", message.matched_blocks(), absl::StrCat("the request had ", blocks));
  }
  for (const v1::SlotRun& run : message.ready()) {
    STEM_TRY(ValidateSlotRun(run, size_t{message.matched_blocks()} * parts, arenas));
  }
  return CoveredByMisses(message.misses(), message.matched_blocks(), blocks);
}

absl::Status ValidateLost(const v1::Lost& message, uint32_t matched_blocks) {
  if (message.matched_blocks() > matched_blocks) {
    return Bad("matched_blocks", message.matched_blocks(), absl::StrCat("only ", matched_blocks, " were promised"));
  }
  return CoveredByMisses(message.misses(), message.matched_blocks(), matched_blocks);
}

absl::Status ValidateReserved(const v1::Reserved& message, uint32_t positions) {
  uint64_t next = 0;
  uint64_t sum = uint64_t{message.held()} + message.being_published() + message.refused();
  for (const v1::Reserved::Run& run : message.wanted()) {
    if (run.first() < next || run.count() == 0) {
      return Bad("wanted.first", run.first(), absl::StrCat("runs must ascend from ", next, ", with a count above 0"));
    }
    next = uint64_t{run.first()} + run.count();
    if (next > positions) return Bad("the end of wanted", next, absl::StrCat("the request had ", positions));
    sum += run.count();
  }
  if (sum > positions) {
    return Bad("wanted, held, being_published and refused together", sum, absl::StrCat("the request had ", positions));
  }
  return absl::OkStatus();
}

absl::Status ValidateCommitted(const v1::Committed& message, uint32_t positions) {
  const uint64_t sum = uint64_t{message.committed()} + message.duplicate() + message.refused();
  if (sum == positions) return absl::OkStatus();
  return Bad("committed, duplicate and refused together", sum, absl::StrCat("the request had ", positions));
}

}  // namespace stem
