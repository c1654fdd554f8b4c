// Any bytes, read as any message that a process of ours receives: validation refuses or returns a value inside its
// limits, and never reads, allocates or loops beyond them. The first byte picks the message.
#include <cstddef>
#include <cstdint>

#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/check.h"
#include "proto/validate.h"
#include "proto/validate_operator.h"
#include "proto/validate_replies.h"

namespace stem {
namespace {

template <typename Message>
Message Parse(const uint8_t* data, size_t size) {
  Message message;
  message.ParsePartialFromArray(data, static_cast<int>(size));
  return message;
}

NamespaceSpec Spec() {
  NamespaceSpec spec;
  spec.model = "m", spec.kv_dtype = "bf16", spec.layout = "nhd", spec.block_tokens = 16;
  spec.parts = {Part{.id = 0, .block_bytes = 4096}, Part{.id = 5, .block_bytes = 8192}};
  return spec;
}

std::vector<v1::ArenaMap> Arenas() {
  v1::ArenaMap arena;
  arena.set_bytes(1ULL << 44);
  arena.set_slot_bytes(1ULL << 43);
  arena.set_payload_offset(4096);
  return {arena};
}

void CheckRun(const v1::SlotRun& run, size_t positions) {
  const std::vector<v1::ArenaMap> arenas = Arenas();
  if (!ValidateSlotRun(run, positions, arenas).ok()) return;
  for (uint32_t slot : run.slots()) {
    const auto end = (static_cast<unsigned __int128>(slot) + 1) * arenas[0].slot_bytes();
    STEM_CHECK(end <= arenas[0].bytes());
  }
}

void FuzzClientSide(uint8_t kind, const uint8_t* data, size_t size) {
  switch (kind) {
    case 0: {
      const auto message = Parse<v1::AttachReply>(data, size);
      (void)ValidateHostPeerReply(message, static_cast<size_t>(message.arenas_size()));
      const auto grant = ValidateAttachReply(message, Spec(), static_cast<size_t>(message.arenas_size()) + 1);
      if (grant.ok()) STEM_CHECK(grant->arenas[0].slot_bytes() - grant->arenas[0].payload_offset() >= 8192);
      return;
    }
    case 1: {
      const auto message = Parse<v1::NodeMessage>(data, size);
      (void)ValidateAcquired(message.acquired(), 100, 2, Arenas());
      (void)ValidateLost(message.lost(), 100);
      (void)ValidateReserved(message.reserved(), 200);
      (void)ValidateCommitted(message.committed(), 200);
      for (const v1::SlotRun& run : message.landed().ready()) CheckRun(run, 200);
      return;
    }
    default: {
      const auto message = Parse<v1::LeaseReply>(data, size);
      (void)ValidateLeaseReply(message, 100, 8192);
      return;
    }
  }
}

void FuzzNodeSide(uint8_t kind, const uint8_t* data, size_t size) {
  switch (kind) {
    case 3: {
      const auto call = ValidateAttach(Parse<v1::AttachRequest>(data, size));
      if (call.ok()) STEM_CHECK(*ValidateSpec(ToMessage(call->spec)) == call->spec);
      return;
    }
    case 4: {
      const auto message = Parse<v1::ClientMessage>(data, size);
      (void)ValidateEnvelope(message);
      const auto call = ValidateAcquire(message.acquire(), Spec());
      if (call.ok()) STEM_CHECK(call->keys.size() * call->parts.size() <= kChainBlocksMax);
      (void)ValidateReserve(message.reserve(), Spec());
      (void)ValidateCommit(message.commit());
      const auto got = ValidateGot(message.got(), Spec());
      if (got.ok()) STEM_CHECK(got->size() <= static_cast<size_t>(kGotChainsMax) && got->front().took <= got->front().began_ago);
      return;
    }
    default:
      (void)ValidateLease(Parse<v1::LeaseRequest>(data, size));
      (void)ValidateDepartures(Parse<v1::DeparturesRequest>(data, size));
      (void)ValidateRequests(Parse<v1::RequestsRequest>(data, size));
      return;
  }
}

// Says what protobuf's own reading says.
void FuzzReadMatch(const uint8_t* data, size_t size) {
  google::protobuf::io::ArrayInputStream pieces(data, static_cast<int>(size), 5);
  const absl::StatusOr<MatchCall> call = ReadMatch(pieces);
  v1::MatchRequest message;
  const bool parsed = message.ParseFromArray(data, static_cast<int>(size));
  if (call.ok()) STEM_CHECK(parsed && PackKeys(call->keys) == message.keys() && call->requester == message.requester());
}

void FuzzDirectorySide(uint8_t kind, const uint8_t* data, size_t size) {
  switch (kind) {
    case 6:
      FuzzReadMatch(data, size);
      (void)ValidateScore(Parse<v1::ScoreRequest>(data, size));
      (void)ValidateIntend(Parse<v1::IntendRequest>(data, size));
      (void)ValidateExplain(Parse<v1::ExplainRequest>(data, size));
      return;
    case 7:
      (void)ValidateMatchReply(Parse<v1::MatchReply>(data, size), 100);
      (void)ValidateScoreReply(Parse<v1::ScoreReply>(data, size), 3, 100);
      (void)ValidateIntendReply(Parse<v1::IntendReply>(data, size));
      (void)ValidateDeparturesReply(Parse<v1::DeparturesReply>(data, size), 100);
      return;
    default: {
      const auto message = Parse<v1::AnnounceMessage>(data, size);
      (void)ValidateHello(message.hello());
      (void)ValidateHeartbeat(message.heartbeat());
      (void)ValidateBatch(message.batch());
      (void)ValidateChunk(message.chunk());
      return;
    }
  }
}

}  // namespace
}  // namespace stem

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t kind = data[0] % 9;
  if (kind < 3) {
    stem::FuzzClientSide(kind, data + 1, size - 1);
  } else if (kind < 6) {
    stem::FuzzNodeSide(kind, data + 1, size - 1);
  } else {
    stem::FuzzDirectorySide(kind, data + 1, size - 1);
  }
  return 0;
}
