// Every refusal names the field, the offending value and what would be right.
#include "proto/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "google/protobuf/io/zero_copy_stream_impl_lite.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

// A change that spoils a good message, and what the refusal must say.
template <typename Message>
struct Spoiled {
  std::function<void(Message&)> spoil;
  std::vector<std::string> says;
};

template <typename Message, typename Validate>
void ExpectRefusals(const Message& good, const Validate& validate, const std::vector<Spoiled<Message>>& cases) {
  const absl::Status accepted = validate(good);
  ASSERT_TRUE(accepted.ok()) << accepted;
  for (const Spoiled<Message>& each : cases) {
    Message message = good;
    each.spoil(message);
    const absl::Status status = validate(message);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << each.says[0] << ": " << status;
    for (const std::string& words : each.says) EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }
}

std::string Keys(size_t count) { return std::string(count * sizeof(BlockKey), 'k'); }

NamespaceSpec TwoParts() {
  return {.model = "m",
          .revision = {},
          .weights_digest = {},
          .kv_dtype = "bf16",
          .scale_scheme = {},
          .layout = "nhd",
          .instruction_set = {},
          .block_tokens = 16,
          .hash_scheme = HashScheme::kXxh3,
          .parts = {Part{.id = 0, .block_bytes = 4096}, Part{.id = 5, .block_bytes = 8192}},
          .tokenizer_digest = {},
          .chat_template_digest = {},
          .spill_encoding = SpillEncoding::kExact};
}

TEST(ValidateTest, SpecRefusals) {
  using Case = Spoiled<v1::NamespaceSpec>;
  ExpectRefusals(
      ToMessage(TwoParts()), [](const v1::NamespaceSpec& m) { return ValidateSpec(m).status(); },
      std::vector<Case>{
          {[](auto& m) { m.clear_model(); }, {"the length of model is 0", "1 to 256"}},
          {[](auto& m) { m.set_model(std::string(257, 'm')); }, {"257", "256"}},
          {[](auto& m) { m.clear_kv_dtype(); }, {"kv_dtype", "0"}},
          {[](auto& m) { m.set_layout(std::string(65, 'l')); }, {"layout", "65"}},
          {[](auto& m) { m.set_instruction_set(std::string(33, 'l')); }, {"instruction_set", "33"}},
          {[](auto& m) { m.set_tokenizer_digest(std::string(129, 'l')); }, {"tokenizer_digest", "129"}},
          {[](auto& m) { m.set_block_tokens(0); }, {"block_tokens is 0", "1 to 65536"}},
          {[](auto& m) { m.set_block_tokens(65537); }, {"block_tokens is 65537"}},
          {[](auto& m) { m.set_hash_scheme(v1::HASH_SCHEME_UNSPECIFIED); }, {"hash_scheme is 0"}},
          {[](auto& m) { m.set_hash_scheme(static_cast<v1::HashScheme>(9)); }, {"hash_scheme is 9"}},
          {[](auto& m) { m.clear_parts(); }, {"the number of parts is 0", "1 to 64"}},
          {[](auto& m) { m.mutable_parts(1)->set_id(0); }, {"part id is 0", "ascend"}},
          {[](auto& m) { m.mutable_parts(1)->set_id(64); }, {"part id is 64", "below 64"}},
          {[](auto& m) { m.mutable_parts(0)->set_group(v1::GROUP_KIND_UNSPECIFIED); }, {"part group is 0"}},
          {[](auto& m) { m.mutable_parts(0)->set_group(v1::GROUP_KIND_WINDOW); }, {"window_tokens is 0"}},
          {[](auto& m) { m.mutable_parts(0)->set_window_tokens(8); }, {"window_tokens is 8"}},
          {[](auto& m) { m.mutable_parts(0)->set_layer_count(0); }, {"layer_count is 0"}},
          {[](auto& m) { m.mutable_parts(0)->set_head_count(0); }, {"head_count is 0"}},
          {[](auto& m) { m.mutable_parts(0)->set_block_bytes(0); }, {"block_bytes is 0"}},
          {[](auto& m) { m.mutable_parts(0)->set_block_bytes((1ULL << 30) + 1); }, {"1073741825"}},
          {[](auto& m) { m.set_spill_encoding(static_cast<v1::SpillEncoding>(3)); }, {"spill_encoding is 3", "EXACT (0), FP8_E4M3 (1) or INT8 (2)"}},
          {[](auto& m) { m.set_spill_encoding(v1::SPILL_ENCODING_INT8), m.set_kv_dtype("int8"); }, {"part 0", "kv_dtype int8", "fp16, bf16 or fp32"}},
      });
}

TEST(ValidateTest, SpecComesBackFromItsMessage) {
  NamespaceSpec spec = TwoParts();
  spec.parts[1] = {.id = 5,
                   .group = GroupKind::kWindow,
                   .window_tokens = 9,
                   .layer_first = 1,
                   .layer_count = 2,
                   .head_first = 3,
                   .head_count = 4,
                   .block_bytes = 5};
  spec.tokenizer_digest = "0123456789abcdef0123";
  spec.scale_scheme = "per-channel";
  EXPECT_EQ(*ValidateSpec(ToMessage(spec)), spec);
  spec = TwoParts();
  spec.spill_encoding = SpillEncoding::kFp8E4m3;
  EXPECT_EQ(*ValidateSpec(ToMessage(spec)), spec);
}

TEST(ValidateTest, AttachRefusals) {
  v1::AttachRequest good;
  good.set_protocol(1);
  *good.mutable_namespace_() = ToMessage(TwoParts());
  using Case = Spoiled<v1::AttachRequest>;
  ExpectRefusals(
      good, [](const v1::AttachRequest& m) { return ValidateAttach(m).status(); },
      std::vector<Case>{
          {[](auto& m) { m.set_protocol(2); }, {"protocol is 2", "speaks 1"}},
          {[](auto& m) { m.clear_namespace_(); }, {"model"}},
          {[](auto& m) { m.set_staging_bytes(1ULL << 45); }, {"staging_bytes is 35184372088832"}},
          {[](auto& m) { m.set_client_name(std::string(129, 'c')); }, {"client_name", "129"}},
          {[](auto& m) { m.set_shared_group(std::string(129, 'c')); }, {"shared_group", "129"}},
      });
}

TEST(ValidateTest, EnvelopeRefusals) {
  v1::ClientMessage good;
  good.set_request_id(1);
  good.set_deadline_us(1000);
  good.mutable_acquire();
  using Case = Spoiled<v1::ClientMessage>;
  ExpectRefusals(
      good, [](const v1::ClientMessage& m) { return ValidateEnvelope(m); },
      std::vector<Case>{
          {[](auto& m) { m.set_request_id(0); }, {"request_id is 0"}},
          {[](auto& m) { m.set_deadline_us(0); }, {"deadline_us is 0"}},
          {[](auto& m) { m.set_deadline_us(3'600'000'001); }, {"deadline_us is 3600000001"}},
          {[](auto& m) { m.set_traceparent(std::string(257, 't')); }, {"traceparent", "257"}},
          {[](auto& m) { m.mutable_open()->set_session_token("short"); }, {"session_token is 5", "16"}},
          {[](auto& m) { m.clear_message(); }, {"not set"}},
      });
  good.set_deadline_us(0);
  good.mutable_release();
  EXPECT_TRUE(ValidateEnvelope(good).ok());  // a release has no deadline
}

TEST(ValidateTest, GotRefusals) {
  v1::Got good;
  v1::Got::Chain& chain = *good.add_chains();
  chain.mutable_asked()->set_keys(Keys(3));
  chain.mutable_asked()->set_request("r");
  chain.mutable_asked()->mutable_conversation()->set_id(8);
  chain.set_payloads_loaded(6);
  chain.set_bytes_loaded(6 * TwoParts().block_bytes_max());
  chain.set_began_us_ago(900);
  chain.set_took_us(900);
  chain.set_deadline_us(3'600'000'000);
  using Case = Spoiled<v1::Got>;
  ExpectRefusals(
      good, [](const v1::Got& m) { return ValidateGot(m, TwoParts()).status(); },
      std::vector<Case>{
          {[](auto& m) { m.clear_chains(); }, {"the number of chains is 0", "1 to 1024"}},
          {[](auto& m) { for (int i = 0; i < 1024; ++i) m.add_chains(); }, {"the number of chains is 1025"}},
          {[](auto& m) { m.mutable_chains(0)->mutable_asked()->set_keys("x"); }, {"the length of keys is 1"}},
          {[](auto& m) { m.mutable_chains(0)->mutable_asked()->mutable_conversation()->set_outlook(static_cast<v1::Outlook>(9)); }, {"outlook"}},
          {[](auto& m) { m.mutable_chains(0)->set_payloads_loaded(7); }, {"payloads_loaded is 7", "6"}},
          {[](auto& m) { m.mutable_chains(0)->set_bytes_loaded(m.chains(0).bytes_loaded() + 1); }, {"bytes_loaded is"}},
          {[](auto& m) { m.mutable_chains(0)->set_took_us(901); }, {"took_us is 901", "900"}},
          {[](auto& m) { m.mutable_chains(0)->set_began_us_ago(3'600'000'001); }, {"3600000001", "3600000000"}},
          {[](auto& m) { m.mutable_chains(0)->set_deadline_us(3'600'000'001); }, {"deadline_us is 3600000001"}},
          {[](auto& m) { m.mutable_chains(0)->set_traceparent(std::string(257, 't')); }, {"traceparent", "257"}},
      });
  const std::vector<GotChain> got = *ValidateGot(good, TwoParts());
  ASSERT_EQ(got.size(), 1u);
  EXPECT_EQ(got[0].chain.keys.size(), 3u);
  EXPECT_EQ(got[0].request, "r");
  EXPECT_EQ(got[0].conversation.id, 8u);
  EXPECT_EQ(got[0].took, absl::Microseconds(900));
}

TEST(ValidateTest, AcquireRefusals) {
  v1::Acquire good;
  good.set_keys(Keys(3));
  using Case = Spoiled<v1::Acquire>;
  ExpectRefusals(
      good, [](const v1::Acquire& m) { return ValidateAcquire(m, TwoParts()).status(); },
      std::vector<Case>{
          {[](auto& m) { m.clear_keys(); }, {"the length of keys is 0"}},
          {[](auto& m) { m.set_keys(Keys(3) + "x"); }, {"the length of keys is 49", "16"}},
          {[](auto& m) { m.set_keys(Keys(65537)); }, {"65536"}},
          {[](auto& m) { m.set_keys(Keys(40000)); }, {"keys times parts is 80000"}},
          {[](auto& m) { m.add_parts(1); }, {"part id is 1", "no such part"}},
          {[](auto& m) { m.add_parts(5), m.add_parts(0); }, {"part id is 0", "ascend"}},
          {[](auto& m) { m.set_request(std::string(129, 'r')); }, {"request", "129"}},
          {[](auto& m) { m.set_compute_ms(60'001); }, {"compute_ms is 60001", "60000"}},
      });
  const ChainCall call = *ValidateAcquire(good, TwoParts());
  EXPECT_EQ(call.keys.size(), 3u);
  EXPECT_EQ(call.parts, (std::vector<uint32_t>{0, 5}));  // none asked for means all
}

TEST(ValidateTest, ReserveAndCommitRefusals) {
  v1::Reserve reserve;
  reserve.set_keys(Keys(1));
  ExpectRefusals(
      reserve, [](const v1::Reserve& m) { return ValidateReserve(m, TwoParts()).status(); },
      std::vector<Spoiled<v1::Reserve>>{
          {[](auto& m) { m.set_parent("0123456789abcde"); }, {"parent is 15", "16"}},
          {[](auto& m) { m.clear_keys(); }, {"keys is 0"}},
          {[](auto& m) { m.mutable_conversation()->set_outlook(static_cast<v1::Outlook>(3)); }, {"outlook is 3", "ENDED (2)"}},
      });
  reserve.mutable_conversation()->set_id(9);
  reserve.mutable_conversation()->set_outlook(v1::OUTLOOK_WILL_RESUME);
  EXPECT_EQ(ValidateReserve(reserve, TwoParts())->conversation.id, 9u);
  EXPECT_EQ(ValidateReserve(reserve, TwoParts())->conversation.outlook, Outlook::kWillResume);
  v1::Commit commit;
  commit.add_positions(2);
  commit.add_positions(4);
  commit.add_staging_offsets(64);
  commit.add_staging_offsets(0);
  ExpectRefusals(
      commit, [](const v1::Commit& m) { return ValidateCommit(m); },
      std::vector<Spoiled<v1::Commit>>{
          {[](auto& m) { m.clear_positions(); }, {"positions is empty"}},
          {[](auto& m) { m.add_positions(9); }, {"staging_offsets is 2", "3"}},
          {[](auto& m) { m.set_positions(1, 2); }, {"position is 2", "ascend"}},
          {[](auto& m) { m.set_staging_offsets(1, 65); }, {"staging_offset is 65", "multiple of 64"}},
      });
}

// In pieces of three bytes, as a network may cut it.
absl::StatusOr<MatchCall> ReadInPieces(const std::string& bytes) {
  google::protobuf::io::ArrayInputStream pieces(bytes.data(), static_cast<int>(bytes.size()), 3);
  return ReadMatch(pieces);
}

TEST(ValidateTest, AMatchIsReadAsItsMessageSays) {
  v1::MatchRequest match;
  match.set_namespace_fingerprint(std::string(16, 'n'));
  match.set_keys(Keys(5));
  match.add_parts(1);
  match.add_parts(3);
  match.add_window_blocks(0);
  match.add_window_blocks(7);
  match.set_requester("node-1");
  const std::string later = "\xD2\x0F\x02hi";  // field 250: of a version to come
  const absl::StatusOr<MatchCall> call = ReadInPieces(match.SerializeAsString() + later);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->space.bytes(), match.namespace_fingerprint());
  EXPECT_EQ(PackKeys(call->keys), match.keys());
  EXPECT_EQ(call->parts, (std::vector<WantedPart>{{.id = 1}, {.id = 3, .window_blocks = 7}}));
  EXPECT_EQ(call->requester, "node-1");
  v1::MatchRequest again;  // fields that come twice: the last counts
  again.set_keys(Keys(2));
  EXPECT_EQ(ReadInPieces(match.SerializeAsString() + again.SerializeAsString())->keys.size(), 2u);
}

TEST(ValidateTest, ADamagedMatchIsRefused) {
  v1::MatchRequest match;
  match.set_namespace_fingerprint(std::string(16, 'n'));
  match.set_keys(Keys(3));
  match.set_requester("node-1");
  const std::string whole = match.SerializeAsString();
  v1::MatchRequest parsed;
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) {
    const std::string cut = whole.substr(0, bytes);
    const absl::StatusOr<MatchCall> call = ReadInPieces(cut);
    if (!parsed.ParseFromString(cut)) {
      EXPECT_TRUE(absl::IsInvalidArgument(call.status())) << bytes;
    }
    EXPECT_FALSE(call.ok() && call->keys.size() < 3) << bytes;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(ReadInPieces(std::string(1, '\0')).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadInPieces("\x12\xF0\xFF\xFF\xFF\x0F").status()));  // keys of 4 GiB
}

TEST(ValidateTest, MatchRefusals) {
  v1::MatchRequest match;
  match.set_namespace_fingerprint(std::string(16, 'n'));
  match.set_keys(Keys(2));
  ExpectRefusals(
      match, [](const v1::MatchRequest& m) { return ReadInPieces(m.SerializeAsString()).status(); },
      std::vector<Spoiled<v1::MatchRequest>>{
          {[](auto& m) { m.set_namespace_fingerprint("n"); }, {"namespace_fingerprint is 1", "16"}},
          {[](auto& m) { m.set_keys("k"); }, {"keys is 1"}},
          {[](auto& m) { m.add_parts(64); }, {"part id is 64"}},
          {[](auto& m) { m.set_requester(std::string(129, 'r')); }, {"requester", "129"}},
      });
  v1::MatchReply reply;
  reply.set_matched_blocks(2);
  v1::HolderRun* run = reply.add_runs();
  run->set_count(2);
  v1::NodeAddress* holder = reply.add_holders();
  holder->set_node("a");
  holder->set_incarnation(1);
  holder->set_peer_address("127.0.0.1:1");
  v1::Miss* miss = reply.add_misses();
  miss->set_first(2);
  miss->set_count(3);
  ExpectRefusals(
      reply, [](const v1::MatchReply& m) { return ValidateMatchReply(m, 5); },
      std::vector<Spoiled<v1::MatchReply>>{
          {[](auto& m) { m.set_matched_blocks(6); }, {"matched_blocks is 6", "5"}},
          {[](auto& m) { m.mutable_runs(0)->set_first(1); }, {"run.first is 1", "at 0"}},
          {[](auto& m) { m.mutable_runs(0)->set_count(1); }, {"the end of runs is 1"}},
          {[](auto& m) { m.mutable_runs(0)->set_holder(1); }, {"run.holder is 1"}},
          {[](auto& m) { m.clear_misses(); }, {"the end of misses is 2", "5 blocks"}},
          {[](auto& m) { m.mutable_misses(0)->set_first(3); }, {"miss.first is 3"}},
          {[](auto& m) { m.mutable_holders(0)->set_incarnation(0); }, {"incarnation is 0"}},
          {[](auto& m) { m.mutable_holders(0)->clear_node(); }, {"node is 0"}},
          {[](auto& m) { m.mutable_holders(0)->clear_peer_address(); }, {"peer_address is 0"}},
      });
}

TEST(ValidateTest, ScoreReplyRefusals) {
  v1::ScoreReply reply;
  reply.add_nodes()->set_node("a");
  reply.mutable_nodes(0)->set_matched_blocks(3);
  reply.mutable_nodes(0)->set_dram_blocks(1);
  reply.mutable_nodes(0)->set_ssd_blocks(2);
  ExpectRefusals(
      reply, [](const v1::ScoreReply& m) { return ValidateScoreReply(m, 1, 3); },
      std::vector<Spoiled<v1::ScoreReply>>{
          {[](auto& m) { m.add_nodes()->set_node("b"); }, {"nodes is 2", "1 candidates"}},
          {[](auto& m) { m.mutable_nodes(0)->clear_node(); }, {"node is 0"}},
          {[](auto& m) { m.mutable_nodes(0)->set_matched_blocks(4); }, {"matched_blocks is 4", "3"}},
          {[](auto& m) { m.mutable_nodes(0)->set_ssd_blocks(UINT32_MAX); }, {"matched_blocks is 3"}},
      });
}

TEST(ValidateTest, HeartbeatRefusals) {
  v1::Heartbeat beat;
  v1::PeerReport* const peer = beat.add_peers();
  peer->set_node("a");
  peer->set_reads(3);
  peer->set_deadline_misses(1);
  peer->set_failed_proofs(2);
  ExpectRefusals(
      beat, [](const v1::Heartbeat& m) { return ValidateHeartbeat(m); },
      std::vector<Spoiled<v1::Heartbeat>>{
          {[](auto& m) { m.mutable_peers(0)->clear_node(); }, {"peers.node is 0"}},
          {[](auto& m) { m.mutable_peers(0)->set_reads(2); }, {"peers.reads is 2"}},
          {[](auto& m) { m.mutable_peers(0)->set_failed_proofs(UINT32_MAX); }, {"peers.reads is 3"}},
          {[](auto& m) { for (int i = 0; i < 4096; ++i) *m.add_peers() = m.peers(0); }, {"peers is 4097", "4096"}},
      });
}

TEST(ValidateTest, IntendRefusals) {
  v1::IntendRequest request;
  request.set_namespace_fingerprint(std::string(16, 'n'));
  request.set_keys(Keys(2));
  request.set_requester("a");
  request.set_duration_ms(60'000);
  ExpectRefusals(
      request, [](const v1::IntendRequest& m) { return ValidateIntend(m).status(); },
      std::vector<Spoiled<v1::IntendRequest>>{
          {[](auto& m) { m.clear_namespace_fingerprint(); }, {"namespace_fingerprint is 0"}},
          {[](auto& m) { m.clear_keys(); }, {"keys is 0"}},
          {[](auto& m) { m.clear_requester(); }, {"requester is 0"}},
          {[](auto& m) { m.set_duration_ms(60'001); }, {"duration_ms is 60001", "60000"}},
          {[](auto& m) { m.set_wait_ms(60'001); }, {"wait_ms is 60001"}},
      });
  v1::IntendReply reply;
  ExpectRefusals(
      reply, [](const v1::IntendReply& m) { return ValidateIntendReply(m); },
      std::vector<Spoiled<v1::IntendReply>>{{[](auto& m) { m.set_estimate_ms(60'001); }, {"estimate_ms is 60001"}},
                                            {[](auto& m) { m.set_holder(std::string(129, 'h')); }, {"holder is 129"}}});
}

TEST(ValidateTest, ChangeRunRefusals) {
  v1::ChangeRun add;
  add.set_namespace_(1);
  add.set_tier(v1::TIER_DRAM);
  add.set_keys(Keys(1));
  ExpectRefusals(
      add, [](const v1::ChangeRun& m) { return ValidateChangeRun(m).status(); },
      std::vector<Spoiled<v1::ChangeRun>>{
          {[](auto& m) { m.set_namespace_(0); }, {"namespace is 0"}},
          {[](auto& m) { m.set_tier(v1::TIER_UNSPECIFIED); }, {"tier is 0"}},
          {[](auto& m) { m.set_remove(true); }, {"reason is 0"}},
          {[](auto& m) { m.set_parent("p"); }, {"parent is 1"}},
          {[](auto& m) { m.clear_keys(); }, {"keys is 0"}},
      });
}

v1::LeaseReply GoodLeaseReply() {
  v1::LeaseReply reply;
  reply.set_lease_id(1);
  reply.set_incarnation(2);
  reply.set_slot_bytes(16384);
  reply.set_payload_offset(4096);
  reply.add_slots(3);
  reply.add_generations(1);
  reply.add_lengths(4097);
  reply.add_digests(1);
  reply.add_from_ssd(false);
  v1::MemoryMap::Region* region = reply.mutable_memory()->add_regions();
  region->set_bytes(65536);
  return reply;
}

TEST(ValidateTest, LeaseRefusals) {
  v1::LeaseRequest request;
  request.set_namespace_fingerprint(std::string(16, 'n'));
  request.set_keys(Keys(1));
  request.set_requester("a");
  ExpectRefusals(
      request, [](const v1::LeaseRequest& m) { return ValidateLease(m).status(); },
      std::vector<Spoiled<v1::LeaseRequest>>{
          {[](auto& m) { m.clear_requester(); }, {"requester is 0"}},
          {[](auto& m) { m.clear_keys(); }, {"keys is 0"}},
          {[](auto& m) { m.clear_namespace_fingerprint(); }, {"namespace_fingerprint is 0"}},
      });
  ExpectRefusals(
      GoodLeaseReply(), [](const v1::LeaseReply& m) { return ValidateLeaseReply(m, 1, 8192); },
      std::vector<Spoiled<v1::LeaseReply>>{
          {[](auto& m) { m.add_slots(4); }, {"slots is 2", "1 keys"}},
          {[](auto& m) { m.clear_generations(); }, {"slots is 1", "one entry per slot"}},
          {[](auto& m) { m.clear_from_ssd(); }, {"one entry per slot"}},
          {[](auto& m) { m.set_lease_id(0); }, {"lease_id"}},
          {[](auto& m) { m.set_lengths(0, 0); }, {"length is 0", "8192"}},
          {[](auto& m) { m.set_lengths(0, 8193); }, {"length is 8193"}},
          {[](auto& m) { m.set_payload_offset(16384); }, {"slot_bytes is 16384"}},
          {[](auto& m) { m.set_arena(9); }, {"arena is 9"}},
          {[](auto& m) { m.set_slots(0, 4); }, {"slot is 4", "4 slots"}},
      });
}

TEST(ValidateTest, SlotAddressesCannotOverflow) {
  v1::ArenaMap arena;
  arena.set_bytes(1ULL << 44);
  arena.set_slot_bytes(1ULL << 43);
  arena.set_payload_offset(4096);
  v1::SlotRun run;
  run.add_generations(1);
  run.add_slots((1U << 21) - 1);  // slots * slot_bytes is 0 modulo 2^64
  EXPECT_THAT(std::string(ValidateSlotRun(run, 1, {arena}).message()), HasSubstr("slot is 2097151"));
  v1::LeaseReply reply = GoodLeaseReply();
  reply.set_slot_bytes(1ULL << 43);
  reply.mutable_memory()->mutable_regions(0)->set_bytes(1ULL << 44);
  reply.set_slots(0, (1U << 21) - 1);
  EXPECT_THAT(std::string(ValidateLeaseReply(reply, 1, 8192).message()), HasSubstr("slot is 2097151"));
}

TEST(ValidateTest, SlotRunAndArenaRefusals) {
  v1::ArenaMap arena;
  arena.set_arena(7);
  arena.set_bytes(40960);
  arena.set_slot_bytes(8192);
  arena.set_payload_offset(4096);
  ExpectRefusals(
      arena, [](const v1::ArenaMap& m) { return ValidateArenaMap(m); },
      std::vector<Spoiled<v1::ArenaMap>>{
          {[](auto& m) { m.set_bytes(0); }, {"arena.bytes is 0"}},
          {[](auto& m) { m.set_bytes(1ULL << 45); }, {"35184372088832"}},
          {[](auto& m) { m.set_slot_bytes(0); }, {"slot_bytes is 0"}},
          {[](auto& m) { m.set_slot_bytes(40961); }, {"slot_bytes is 40961"}},
          {[](auto& m) { m.set_payload_offset(8192); }, {"payload_offset"}},
      });
  v1::SlotRun run;
  run.set_first(1);
  run.set_arena(7);
  run.add_slots(4);
  run.add_generations(9);
  ExpectRefusals(
      run, [&](const v1::SlotRun& m) { return ValidateSlotRun(m, 2, {arena}); },
      std::vector<Spoiled<v1::SlotRun>>{
          {[](auto& m) { m.clear_slots(); }, {"slots is 0"}},
          {[](auto& m) { m.add_generations(1); }, {"one generation each"}},
          {[](auto& m) { m.set_first(2); }, {"first is 2", "2 positions"}},
          {[](auto& m) { m.set_first(UINT32_MAX); }, {"first is 4294967295"}},
          {[](auto& m) { m.set_arena(8); }, {"arena is 8"}},
          {[](auto& m) { m.set_slots(0, 5); }, {"slot is 5", "5 slots"}},
      });
}

}  // namespace
}  // namespace stem
