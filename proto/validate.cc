#include "proto/validate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/spill_scale.h"
#include "proto/validate_fields.h"

namespace stem {
namespace {

using fields::AscendingParts;
using fields::Bad;
using fields::OptionalKey;
using fields::OptionalProbe;
using fields::TextWithin;

constexpr uint64_t kDeadlineMaxMicros = 3600ULL * 1000 * 1000;

absl::StatusOr<Part> ValidatePart(const v1::Part& message, uint32_t block_tokens) {
  if (message.id() >= kPartsMax) return Bad("part id", message.id(), absl::StrCat("it must be below ", kPartsMax));
  if (message.group() < v1::GROUP_KIND_FULL || message.group() > v1::GROUP_KIND_STATE) {
    return Bad("part group", static_cast<int>(message.group()), "it must be FULL (1), WINDOW (2) or STATE (3)");
  }
  const bool window = message.group() == v1::GROUP_KIND_WINDOW;
  if (window != (message.window_tokens() > 0)) {
    return Bad("part window_tokens", message.window_tokens(), "it must be above 0 exactly when the group is WINDOW");
  }
  if (message.layer_count() == 0) return Bad("part layer_count", 0, "it must be at least 1");
  if (message.head_count() == 0) return Bad("part head_count", 0, "it must be at least 1");
  if (message.block_bytes() == 0 || message.block_bytes() > kBlockBytesMax) {
    return Bad("part block_bytes", message.block_bytes(),
               absl::StrCat("it must be 1 to ", kBlockBytesMax, " (all layers of the part, ", block_tokens, " tokens)"));
  }
  return Part{.id = message.id(),
              .group = static_cast<GroupKind>(message.group()),
              .window_tokens = message.window_tokens(),
              .layer_first = message.layer_first(),
              .layer_count = message.layer_count(),
              .head_first = message.head_first(),
              .head_count = message.head_count(),
              .block_bytes = message.block_bytes()};
}

// Of an Acquire or a Reserve.
template <typename Message>
absl::StatusOr<ChainCall> ValidateChain(const Message& message, const NamespaceSpec& spec) {
  ChainCall call;
  STEM_ASSIGN(call.keys, ValidateKeys(message.keys()));
  STEM_ASSIGN(call.parts, ValidateParts(message.parts(), spec));
  STEM_ASSIGN(call.probe, OptionalProbe(message.probe()));
  if (call.keys.size() * call.parts.size() > kChainBlocksMax) {
    return Bad("keys times parts", call.keys.size() * call.parts.size(),
               absl::StrCat("it must be at most ", kChainBlocksMax));
  }
  return call;
}

}  // namespace

absl::StatusOr<NamespaceFingerprint> ValidateFingerprint(absl::string_view bytes) {
  if (bytes.size() != sizeof(NamespaceFingerprint)) {
    return Bad("the length of namespace_fingerprint", bytes.size(), "it must be 16 bytes");
  }
  return (*UnpackNames<NamespaceFingerprint>(bytes))[0];
}

absl::StatusOr<std::vector<BlockKey>> ValidateKeys(absl::string_view bytes) {
  STEM_TRY(fields::CheckKeyBytes(bytes.size()));
  return *UnpackNames<BlockKey>(bytes);
}

absl::StatusOr<NamespaceSpec> ValidateSpec(const v1::NamespaceSpec& message) {
  STEM_TRY(TextWithin("model", message.model(), 1, 256));
  STEM_TRY(TextWithin("revision", message.revision(), 0, 256));
  STEM_TRY(TextWithin("weights_digest", message.weights_digest(), 0, 128));
  STEM_TRY(TextWithin("kv_dtype", message.kv_dtype(), 1, 32));
  STEM_TRY(TextWithin("scale_scheme", message.scale_scheme(), 0, 64));
  STEM_TRY(TextWithin("layout", message.layout(), 1, 64));
  STEM_TRY(TextWithin("instruction_set", message.instruction_set(), 0, 32));
  STEM_TRY(TextWithin("tokenizer_digest", message.tokenizer_digest(), 0, 128));
  STEM_TRY(TextWithin("chat_template_digest", message.chat_template_digest(), 0, 128));
  if (message.block_tokens() == 0 || message.block_tokens() > kBlockTokensMax) {
    return Bad("block_tokens", message.block_tokens(), absl::StrCat("it must be 1 to ", kBlockTokensMax));
  }
  if (message.hash_scheme() < v1::HASH_SCHEME_XXH3 || message.hash_scheme() > v1::HASH_SCHEME_EXTERNAL) {
    return Bad("hash_scheme", static_cast<int>(message.hash_scheme()), "it must be XXH3 (1), SHA256 (2) or EXTERNAL (3)");
  }
  if (message.parts().empty() || message.parts_size() > static_cast<int>(kPartsMax)) {
    return Bad("the number of parts", message.parts_size(), absl::StrCat("it must be 1 to ", kPartsMax));
  }
  if (!v1::SpillEncoding_IsValid(message.spill_encoding())) {
    return Bad("spill_encoding", static_cast<int>(message.spill_encoding()), "it must be EXACT (0), FP8_E4M3 (1) or INT8 (2)");
  }
  NamespaceSpec spec{.model = message.model(),
                     .revision = message.revision(),
                     .weights_digest = message.weights_digest(),
                     .kv_dtype = message.kv_dtype(),
                     .scale_scheme = message.scale_scheme(),
                     .layout = message.layout(),
                     .instruction_set = message.instruction_set(),
                     .block_tokens = message.block_tokens(),
                     .hash_scheme = static_cast<HashScheme>(message.hash_scheme()),
                     .parts = {},
                     .tokenizer_digest = message.tokenizer_digest(),
                     .chat_template_digest = message.chat_template_digest(),
                     .spill_encoding = static_cast<SpillEncoding>(message.spill_encoding())};
  for (const v1::Part& each : message.parts()) {
    STEM_ASSIGN(Part part, ValidatePart(each, spec.block_tokens));
    if (!spec.parts.empty() && part.id <= spec.parts.back().id) {
      return Bad("part id", part.id, "part ids must ascend");
    }
    spec.parts.push_back(part);
  }
  if (spec.spill_encoding != SpillEncoding::kExact) STEM_TRY(SpillScaleElements(spec).status());
  return spec;
}

v1::NamespaceSpec ToMessage(const NamespaceSpec& spec) {
  v1::NamespaceSpec message;
  message.set_model(spec.model);
  message.set_revision(spec.revision);
  message.set_weights_digest(spec.weights_digest);
  message.set_kv_dtype(spec.kv_dtype);
  message.set_scale_scheme(spec.scale_scheme);
  message.set_layout(spec.layout);
  message.set_instruction_set(spec.instruction_set);
  message.set_block_tokens(spec.block_tokens);
  message.set_hash_scheme(static_cast<v1::HashScheme>(spec.hash_scheme));
  for (const Part& part : spec.parts) {
    v1::Part* out = message.add_parts();
    out->set_id(part.id);
    out->set_group(static_cast<v1::GroupKind>(part.group));
    out->set_window_tokens(part.window_tokens);
    out->set_layer_first(part.layer_first);
    out->set_layer_count(part.layer_count);
    out->set_head_first(part.head_first);
    out->set_head_count(part.head_count);
    out->set_block_bytes(part.block_bytes);
  }
  message.set_tokenizer_digest(spec.tokenizer_digest);
  message.set_chat_template_digest(spec.chat_template_digest);
  message.set_spill_encoding(static_cast<v1::SpillEncoding>(spec.spill_encoding));
  return message;
}

v1::Difference FirstDifference(const NamespaceSpec& asked, const google::protobuf::RepeatedPtrField<v1::NamespaceSpec>& known) {
  std::vector<FieldDifference> least;
  for (const v1::NamespaceSpec& each : known) {
    const absl::StatusOr<NamespaceSpec> spec = ValidateSpec(each);
    if (!spec.ok()) continue;
    std::vector<FieldDifference> differences = DifferencesOf(asked, *spec);
    if (differences.empty() || (!least.empty() && least.size() <= differences.size())) continue;
    least = std::move(differences);
  }
  v1::Difference first;
  if (least.empty()) return first;
  first.set_field(least[0].field);
  first.set_asked(least[0].a);
  first.set_known(least[0].b);
  return first;
}

absl::StatusOr<std::vector<uint32_t>> ValidateParts(const google::protobuf::RepeatedField<uint32_t>& ids,
                                                    const NamespaceSpec& spec) {
  STEM_ASSIGN(std::vector<uint32_t> parts, AscendingParts(ids));
  if (parts.empty()) {
    for (const Part& part : spec.parts) parts.push_back(part.id);
  }
  for (uint32_t id : parts) {
    if (spec.part(id) == nullptr) return Bad("part id", id, "the namespace has no such part");
  }
  return parts;
}

absl::StatusOr<AttachCall> ValidateAttach(const v1::AttachRequest& message) {
  if (message.protocol() != kAttachProtocol) {
    return Bad("protocol", message.protocol(), absl::StrCat("this node speaks ", kAttachProtocol));
  }
  AttachCall call;
  STEM_ASSIGN(call.spec, ValidateSpec(message.namespace_()));
  call.staging_bytes = message.staging_bytes();
  if (call.staging_bytes > kArenaBytesMax) {
    return Bad("staging_bytes", call.staging_bytes, absl::StrCat("it must be at most ", kArenaBytesMax));
  }
  STEM_TRY(TextWithin("client_name", message.client_name(), 0, 128));
  STEM_TRY(TextWithin("shared_group", message.shared_group(), 0, 128));
  call.client_name = message.client_name();
  call.shared_group = message.shared_group();
  return call;
}

absl::Status ValidateEnvelope(const v1::ClientMessage& message) {
  if (message.request_id() == 0) return Bad("request_id", 0, "it must be above 0");
  STEM_TRY(TextWithin("traceparent", message.traceparent(), 0, 256));
  switch (message.message_case()) {
    case v1::ClientMessage::kOpen:
      return TextWithin("session_token", message.open().session_token(), 16, 16);
    case v1::ClientMessage::kRelease:
    case v1::ClientMessage::kAbandon:
    case v1::ClientMessage::kMapped:
    case v1::ClientMessage::kConversationEnded:
    case v1::ClientMessage::kGot:
      return absl::OkStatus();
    case v1::ClientMessage::kAcquire:
    case v1::ClientMessage::kReserve:
    case v1::ClientMessage::kCommit:
      if (message.deadline_us() == 0 || message.deadline_us() > kDeadlineMaxMicros) {
        return Bad("deadline_us", message.deadline_us(), absl::StrCat("it must be 1 to ", kDeadlineMaxMicros));
      }
      return absl::OkStatus();
    case v1::ClientMessage::MESSAGE_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("the message is not set, or of a kind that this node does not know");
}

absl::StatusOr<ChainCall> ValidateAcquire(const v1::Acquire& message, const NamespaceSpec& spec) {
  STEM_TRY(TextWithin("request", message.request(), 0, 128));
  if (message.compute_ms() > kComputeMillisMax) {
    return Bad("compute_ms", message.compute_ms(), absl::StrCat("it must be at most ", kComputeMillisMax));
  }
  if (message.block_compute_us() > kBlockComputeMicrosMax) {
    return Bad("block_compute_us", message.block_compute_us(), absl::StrCat("it must be at most ", kBlockComputeMicrosMax));
  }
  return ValidateChain(message, spec);
}

absl::StatusOr<Conversation> ValidateConversation(const v1::Conversation& message) {
  switch (message.outlook()) {
    case v1::OUTLOOK_UNSPECIFIED: return Conversation{.id = message.id()};
    case v1::OUTLOOK_WILL_RESUME: return Conversation{.id = message.id(), .outlook = Outlook::kWillResume};
    case v1::OUTLOOK_ENDED: return Conversation{.id = message.id(), .outlook = Outlook::kEnded};
    default: return Bad("outlook", message.outlook(), "it must be UNSPECIFIED (0), WILL_RESUME (1) or ENDED (2)");
  }
}

absl::StatusOr<std::vector<GotChain>> ValidateGot(const v1::Got& message, const NamespaceSpec& spec) {
  if (message.chains().empty() || message.chains_size() > kGotChainsMax) {
    return Bad("the number of chains", message.chains_size(), absl::StrCat("it must be 1 to ", kGotChainsMax));
  }
  std::vector<GotChain> chains;
  for (const v1::Got::Chain& chain : message.chains()) {
    GotChain& got = chains.emplace_back();
    STEM_ASSIGN(got.chain, ValidateAcquire(chain.asked(), spec));
    STEM_ASSIGN(got.conversation, ValidateConversation(chain.asked().conversation()));
    got.request = chain.asked().request();
    STEM_TRY(TextWithin("traceparent", chain.traceparent(), 0, 256));
    got.traceparent = chain.traceparent();
    const uint64_t positions = got.chain.keys.size() * got.chain.parts.size();
    if (chain.payloads_loaded() > positions) {
      return Bad("payloads_loaded", chain.payloads_loaded(), absl::StrCat("the chain has ", positions));
    }
    got.payloads_loaded = chain.payloads_loaded();
    if (chain.bytes_loaded() > positions * spec.block_bytes_max()) {
      return Bad("bytes_loaded", chain.bytes_loaded(), absl::StrCat("the chain has at most ", positions * spec.block_bytes_max()));
    }
    got.bytes_loaded = chain.bytes_loaded();
    if (chain.began_us_ago() > kDeadlineMaxMicros || chain.took_us() > chain.began_us_ago()) {
      return Bad("took_us", chain.took_us(), absl::StrCat("it must be at most began_us_ago, ", chain.began_us_ago(), ", and that at most ",
                                                          kDeadlineMaxMicros));
    }
    if (chain.deadline_us() > kDeadlineMaxMicros) {
      return Bad("deadline_us", chain.deadline_us(), absl::StrCat("it must be at most ", kDeadlineMaxMicros));
    }
    got.deadline = absl::Microseconds(chain.deadline_us());
    got.block_compute = absl::Microseconds(chain.asked().block_compute_us());
    got.began_ago = absl::Microseconds(chain.began_us_ago());
    got.took = absl::Microseconds(chain.took_us());
  }
  return chains;
}

absl::StatusOr<ReserveCall> ValidateReserve(const v1::Reserve& message, const NamespaceSpec& spec) {
  ReserveCall call;
  STEM_ASSIGN(call.parent, OptionalKey("parent", message.parent()));
  STEM_ASSIGN(call.chain, ValidateChain(message, spec));
  STEM_ASSIGN(call.conversation, ValidateConversation(message.conversation()));
  return call;
}

absl::Status ValidateCommit(const v1::Commit& message) {
  if (message.positions().empty()) return absl::InvalidArgumentError("positions is empty; name at least one block");
  if (message.positions_size() != message.staging_offsets_size()) {
    return Bad("the number of staging_offsets", message.staging_offsets_size(),
               absl::StrCat("it must be one per position, ", message.positions_size()));
  }
  for (int i = 0; i < message.positions_size(); ++i) {
    if (i > 0 && message.positions(i) <= message.positions(i - 1)) {
      return Bad("position", message.positions(i), "positions must ascend");
    }
    if (message.staging_offsets(i) % kStagingAlignment != 0) {
      return Bad("staging_offset", message.staging_offsets(i), absl::StrCat("it must be a multiple of ", kStagingAlignment));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<LeaseCall> ValidateLease(const v1::LeaseRequest& message) {
  LeaseCall call;
  STEM_ASSIGN(call.space, ValidateFingerprint(message.namespace_fingerprint()));
  STEM_ASSIGN(call.keys, ValidateKeys(message.keys()));
  STEM_TRY(TextWithin("requester", message.requester(), 1, 128));
  return call;
}

absl::Status ValidateLeaseReply(const v1::LeaseReply& message, size_t keys_asked, uint64_t block_bytes_max) {
  const size_t leased = message.slots_size();
  if (leased > keys_asked) return Bad("the number of slots", leased, absl::StrCat("the request had ", keys_asked, " keys"));
  if (static_cast<size_t>(message.generations_size()) != leased || static_cast<size_t>(message.lengths_size()) != leased ||
      static_cast<size_t>(message.digests_size()) != leased || static_cast<size_t>(message.from_ssd_size()) != leased) {
    return Bad("the number of slots", leased, "generations, lengths, digests and from_ssd must have one entry per slot");
  }
  if (leased > 0 && (message.lease_id() == 0 || message.incarnation() == 0)) {
    return Bad("lease_id or incarnation", 0, "both must be above 0 when slots are leased");
  }
  for (uint32_t length : message.lengths()) {
    if (length == 0 || length > block_bytes_max) return Bad("length", length, absl::StrCat("it must be 1 to ", block_bytes_max));
  }
  if (leased > 0 && (message.slot_bytes() == 0 || message.slot_bytes() > kArenaBytesMax ||
                     message.payload_offset() >= message.slot_bytes())) {
    return Bad("slot_bytes", message.slot_bytes(), "it must be above payload_offset and below 16 TiB");
  }
  if (!message.has_memory()) return absl::OkStatus();
  const auto region = std::find_if(message.memory().regions().begin(), message.memory().regions().end(),
                                   [&](const auto& each) { return each.arena() == message.arena(); });
  if (leased > 0 && region == message.memory().regions().end()) {
    return Bad("arena", message.arena(), "no region of memory has that id");
  }
  for (uint32_t slot : message.slots()) {
    if (slot >= region->bytes() / message.slot_bytes()) {  // no product: it could overflow
      return Bad("slot", slot, absl::StrCat("the arena has ", region->bytes() / message.slot_bytes(), " slots"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateRenew(const v1::RenewRequest& message) {
  if (!message.lease_ids().empty() && message.lease_ids_size() <= kLeasesRenewedMax) return absl::OkStatus();
  return Bad("the number of lease_ids", message.lease_ids_size(), absl::StrCat("it must be 1 to ", kLeasesRenewedMax));
}

absl::Status ValidateArenaMap(const v1::ArenaMap& arena) {
  if (arena.bytes() == 0 || arena.bytes() > kArenaBytesMax) {
    return Bad("arena.bytes", arena.bytes(), absl::StrCat("it must be 1 to ", kArenaBytesMax));
  }
  if (arena.slot_bytes() == 0 || arena.slot_bytes() > arena.bytes() || arena.payload_offset() >= arena.slot_bytes()) {
    return Bad("arena.slot_bytes", arena.slot_bytes(), "it must be above payload_offset and within the arena");
  }
  return absl::OkStatus();
}

absl::Status ValidateSlotRun(const v1::SlotRun& run, size_t positions, const std::vector<v1::ArenaMap>& arenas) {
  if (run.slots().empty() || run.slots_size() != run.generations_size()) {
    return Bad("the number of slots", run.slots_size(), "it must be at least 1, with one generation each");
  }
  if (uint64_t{run.first()} + run.slots_size() > positions) {
    return Bad("first", run.first(), absl::StrCat("the request had ", positions, " positions"));
  }
  const auto arena = std::find_if(arenas.begin(), arenas.end(), [&](const auto& each) { return each.arena() == run.arena(); });
  if (arena == arenas.end()) return Bad("arena", run.arena(), "it is not mapped");
  for (uint32_t slot : run.slots()) {
    if (slot >= arena->bytes() / arena->slot_bytes()) {  // no product: it could overflow
      return Bad("slot", slot, absl::StrCat("the arena has ", arena->bytes() / arena->slot_bytes(), " slots"));
    }
  }
  return absl::OkStatus();
}

}  // namespace stem
