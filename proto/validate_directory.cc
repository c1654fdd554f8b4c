// The directory's half of proto/validate.h.
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/wire_format_lite.h"
#include "proto/validate.h"
#include "proto/validate_fields.h"

namespace stem {
namespace {

using fields::Bad;
using fields::CheckKeyBytes;
using fields::OptionalKey;
using fields::OptionalProbe;
using fields::ValidateLookup;
using fields::TextWithin;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr uint32_t kIntentMillisMax = 60'000;
constexpr int kPeerReportsMax = 4096;
constexpr size_t kProbesMax = 4096;  // of one namespace in one heartbeat
constexpr int kKnownAsMax = 8;
constexpr int kPublishedMax = 1024;  // namespaces in one heartbeat
constexpr int kCountersMax = 64;  // of one kind; newer nodes may tell more than this version knows

absl::Status MillisWithin(absl::string_view field, uint32_t value) {
  if (value <= kIntentMillisMax) return absl::OkStatus();
  return Bad(field, value, absl::StrCat("it must be at most ", kIntentMillisMax));
}

// What a batch and a snapshot chunk have in common.
template <typename Message>
absl::StatusOr<ValidChanges> ValidateChanges(const Message& message) {
  if (message.sequence() > kSequenceMax) {
    return Bad("sequence", message.sequence(), absl::StrCat("it must be at most ", kSequenceMax));
  }
  ValidChanges valid;
  for (const v1::InternedNamespace& each : message.namespaces()) {
    if (each.number() == 0) return Bad("namespace number", 0, "numbers start at 1");
    STEM_ASSIGN(const NamespaceFingerprint space, ValidateFingerprint(each.fingerprint()));
    valid.namespaces.push_back({.number = each.number(), .space = space, .engine_cache = each.engine_cache()});
  }
  valid.runs.reserve(static_cast<size_t>(message.runs_size()));
  for (const v1::ChangeRun& each : message.runs()) {
    STEM_ASSIGN(ValidChangeRun run, ValidateChangeRun(each));
    valid.changes += run.keys.size();
    valid.runs.push_back(std::move(run));
  }
  return valid;
}

}  // namespace

absl::StatusOr<MatchCall> ReadMatch(google::protobuf::io::ZeroCopyInputStream& bytes) {
  constexpr uint32_t kKeysTag = WireFormatLite::MakeTag(v1::MatchRequest::kKeysFieldNumber,
                                                        WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
  const auto damaged = [] { return absl::InvalidArgumentError("the request is no MatchRequest: its bytes are damaged"); };
  CodedInputStream in(&bytes);
  std::vector<BlockKey> keys;
  std::string others;  // fields, as they came
  {
    google::protobuf::io::StringOutputStream sink(&others);
    CodedOutputStream out(&sink);
    while (const uint32_t tag = in.ReadTag()) {
      uint32_t key_bytes = 0;
      if (tag != kKeysTag) {
        if (!WireFormatLite::SkipField(&in, tag, &out)) return damaged();
        continue;
      }
      if (!in.ReadVarint32(&key_bytes)) return damaged();
      STEM_TRY(CheckKeyBytes(key_bytes));
      keys.resize(key_bytes / sizeof(BlockKey));
      if (!in.ReadRaw(keys.data(), static_cast<int>(key_bytes))) return damaged();
    }
  }
  v1::MatchRequest message;
  if (!in.ConsumedEntireMessage() || !message.ParseFromString(others)) return damaged();
  STEM_TRY(TextWithin("requester", message.requester(), 0, 128));
  STEM_ASSIGN(MatchCall call, ValidateLookup(message, std::move(keys)));
  call.requester = std::move(*message.mutable_requester());
  STEM_ASSIGN(call.probe, OptionalProbe(message.probe()));
  return call;
}

absl::StatusOr<MatchCall> ValidateScore(const v1::ScoreRequest& message) {
  if (message.candidates_size() > kCandidatesMax) {
    return Bad("the number of candidates", message.candidates_size(), absl::StrCat("it must be at most ", kCandidatesMax));
  }
  for (const std::string& candidate : message.candidates()) STEM_TRY(TextWithin("candidate", candidate, 1, 128));
  STEM_ASSIGN(std::vector<BlockKey> keys, ValidateKeys(message.keys()));
  return ValidateLookup(message, std::move(keys));
}

absl::Status ValidateMatchReply(const v1::MatchReply& message, size_t blocks) {
  if (message.matched_blocks() > blocks) {
    return Bad("matched_blocks", message.matched_blocks(), absl::StrCat("the request had ", blocks));
  }
  uint64_t next = 0;
  for (const v1::HolderRun& run : message.runs()) {
    if (run.first() != next || run.count() == 0) return Bad("run.first", run.first(), absl::StrCat("runs must go on at ", next));
    if (run.holder() >= static_cast<uint32_t>(message.holders_size())) {
      return Bad("run.holder", run.holder(), absl::StrCat("there are ", message.holders_size(), " holders"));
    }
    next += run.count();
  }
  if (next != message.matched_blocks()) return Bad("the end of runs", next, absl::StrCat("matched_blocks is ", message.matched_blocks()));
  for (const v1::Miss& miss : message.misses()) {
    if (miss.first() != next || miss.count() == 0) return Bad("miss.first", miss.first(), absl::StrCat("misses must go on at ", next));
    next += miss.count();
  }
  if (next != blocks) return Bad("the end of misses", next, absl::StrCat("the request had ", blocks, " blocks"));
  for (const v1::NodeAddress& holder : message.holders()) STEM_TRY(ValidateAddress(holder));
  if (message.known_as_size() > kKnownAsMax) {
    return Bad("the number of known_as", message.known_as_size(), absl::StrCat("it must be at most ", kKnownAsMax));
  }
  for (const v1::NamespaceSpec& known : message.known_as()) STEM_TRY(ValidateSpec(known).status());
  return absl::OkStatus();
}

absl::Status ValidateAddress(const v1::NodeAddress& message) {
  STEM_TRY(TextWithin("node", message.node(), 1, 128));
  if (message.incarnation() == 0) return Bad("incarnation", 0, "it must be a random number above 0");
  STEM_TRY(TextWithin("peer_address", message.peer_address(), 1, 256));
  STEM_TRY(TextWithin("host_id", message.host_id(), 0, 128));
  return TextWithin("attach_path", message.attach_path(), 0, 256);
}

absl::StatusOr<ValidChangeRun> ValidateChangeRun(const v1::ChangeRun& message) {
  if (message.namespace_() == 0) return Bad("namespace", 0, "it must be a number interned on this stream");
  if (message.remove()) {
    if (message.reason() < v1::REMOVE_REASON_EVICTED || message.reason() > v1::REMOVE_REASON_WITHDRAWN) {
      return Bad("reason", static_cast<int>(message.reason()), "a remove must say why (1 to 4)");
    }
  } else if (message.tier() < v1::TIER_GPU || message.tier() > v1::TIER_SSD) {
    return Bad("tier", static_cast<int>(message.tier()), "an add must name GPU (1), DRAM (2) or SSD (3)");
  }
  ValidChangeRun run{.namespace_number = message.namespace_(),
                     .remove = message.remove(),
                     .tier = message.tier(),
                     .reason = message.reason(),
                     .parent = std::nullopt,
                     .keys = {}};
  STEM_ASSIGN(run.parent, OptionalKey("parent", message.parent()));
  STEM_ASSIGN(run.keys, ValidateKeys(message.keys()));
  return run;
}

absl::Status ValidateHello(const v1::Hello& message) { return ValidateAddress(message.node()); }

absl::StatusOr<ValidChanges> ValidateBatch(const v1::Batch& message) {
  if (message.sequence() == 0) return Bad("sequence", 0, "changes are numbered from 1");
  return ValidateChanges(message);
}

absl::StatusOr<ValidChanges> ValidateChunk(const v1::SnapshotChunk& message) {
  STEM_ASSIGN(ValidChanges changes, ValidateChanges(message));
  for (const ValidChangeRun& run : changes.runs) {
    if (run.remove) return absl::InvalidArgumentError("a snapshot has a remove; it must list what the node holds, adds only");
  }
  return changes;
}

absl::Status ValidateScoreReply(const v1::ScoreReply& message, size_t candidates, size_t blocks) {
  if (candidates > 0 && static_cast<size_t>(message.nodes_size()) != candidates) {
    return Bad("the number of nodes", message.nodes_size(), absl::StrCat("the request had ", candidates, " candidates"));
  }
  for (const v1::ScoreReply::Node& node : message.nodes()) {
    STEM_TRY(TextWithin("node", node.node(), 1, 128));
    if (node.matched_blocks() > blocks || uint64_t{node.dram_blocks()} + node.ssd_blocks() > node.matched_blocks()) {
      return Bad("matched_blocks", node.matched_blocks(),
                 absl::StrCat("dram_blocks and ssd_blocks are among them, and the request had ", blocks));
    }
    if (node.engine_blocks() > blocks) return Bad("engine_blocks", node.engine_blocks(), absl::StrCat("the request had ", blocks));
  }
  return absl::OkStatus();
}

static absl::Status ValidateCounters(const v1::NodeCounters& message) {
  for (const auto* const list : {&message.tokens_hit(), &message.tokens_missed(), &message.bytes()}) {
    if (list->size() > kCountersMax) {
      return Bad("the number of counters", list->size(), absl::StrCat("it must be at most ", kCountersMax));
    }
  }
  if (message.tenants_size() > kCountersMax) {
    return Bad("the number of tenants", message.tenants_size(), absl::StrCat("it must be at most ", kCountersMax));
  }
  for (const v1::NodeCounters::Tenant& tenant : message.tenants()) STEM_TRY(TextWithin("tenants.tenant", tenant.tenant(), 1, 128));
  return absl::OkStatus();
}

absl::Status ValidateHeartbeat(const v1::Heartbeat& message) {
  STEM_TRY(ValidateCounters(message.counters()));
  if (message.peers_size() > kPeerReportsMax) {
    return Bad("the number of peers", message.peers_size(), absl::StrCat("it must be at most ", kPeerReportsMax));
  }
  for (const v1::PeerReport& peer : message.peers()) {
    STEM_TRY(TextWithin("peers.node", peer.node(), 1, 128));
    if (uint64_t{peer.deadline_misses()} + peer.failed_proofs() > peer.reads()) {
      return Bad("peers.reads", peer.reads(), "deadline_misses and failed_proofs are among the reads");
    }
  }
  if (message.published_size() > kPublishedMax) {
    return Bad("the number of published", message.published_size(), absl::StrCat("it must be at most ", kPublishedMax));
  }
  for (const v1::PublishedPrompts& prompts : message.published()) STEM_TRY(ValidatePublished(prompts).status());
  return absl::OkStatus();
}

absl::StatusOr<PublishedCall> ValidatePublished(const v1::PublishedPrompts& message) {
  PublishedCall call;
  STEM_ASSIGN(call.spec, ValidateSpec(message.namespace_()));
  STEM_ASSIGN(call.space, ValidateFingerprint(message.fingerprint()));
  const std::optional<std::vector<Probe>> probes = UnpackNames<Probe>(message.probes());
  if (!probes.has_value() || probes->size() > kProbesMax) {
    return Bad("the length of probes", message.probes().size(), absl::StrCat("it must be a multiple of 16 bytes, at most ", kProbesMax,
                                                                             " probes"));
  }
  call.probes = *probes;
  return call;
}

absl::StatusOr<IntendCall> ValidateIntend(const v1::IntendRequest& message) {
  IntendCall call;
  STEM_ASSIGN(call.space, ValidateFingerprint(message.namespace_fingerprint()));
  STEM_ASSIGN(call.keys, ValidateKeys(message.keys()));
  STEM_TRY(TextWithin("requester", message.requester(), 1, 128));
  STEM_TRY(MillisWithin("duration_ms", message.duration_ms()));
  STEM_TRY(MillisWithin("wait_ms", message.wait_ms()));
  call.requester = message.requester();
  call.duration = absl::Milliseconds(message.duration_ms());
  call.wait = absl::Milliseconds(message.wait_ms());
  return call;
}

absl::Status ValidateIntendReply(const v1::IntendReply& message) {
  STEM_TRY(MillisWithin("estimate_ms", message.estimate_ms()));
  return TextWithin("holder", message.holder(), 0, 128);
}

}  // namespace stem
