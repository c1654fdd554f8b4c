// What a client believes of its node: nothing before these have passed it.
#include "proto/validate_replies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace stem {
namespace {

using ::testing::HasSubstr;

NamespaceSpec OnePart() {
  return {.model = "m",
          .revision = {},
          .weights_digest = {},
          .kv_dtype = "bf16",
          .scale_scheme = {},
          .layout = "nhd",
          .instruction_set = {},
          .block_tokens = 16,
          .hash_scheme = HashScheme::kXxh3,
          .parts = {Part{.id = 0, .block_bytes = 8000}},
          .tokenizer_digest = {},
          .chat_template_digest = {}};
}

v1::AttachReply GoodReply() {
  v1::AttachReply reply;
  reply.set_session_token(std::string(16, 't'));
  reply.set_namespace_fingerprint(std::string(16, 'f'));
  reply.set_root(std::string(32, 'r'));
  reply.set_probe_key(std::string(32, 'p'));
  reply.set_node("a");
  reply.set_incarnation(1);
  reply.set_staging_bytes(4096);
  v1::ArenaMap* arena = reply.add_arenas();
  arena->set_arena(3);
  arena->set_bytes(1 << 20);
  arena->set_slot_bytes(12288);
  arena->set_payload_offset(4096);
  return reply;
}

struct Spoiled {
  std::function<void(v1::AttachReply&)> spoil;
  std::string says;
};

TEST(ValidateRepliesTest, AttachReplyRefusals) {
  const auto grant = ValidateAttachReply(GoodReply(), OnePart(), 2);
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_EQ(grant->root[31], 'r');
  EXPECT_EQ(grant->arenas.size(), 1u);
  EXPECT_EQ(grant->probe_key->back(), 'p');
  v1::AttachReply older = GoodReply();
  older.clear_probe_key();
  const auto without = ValidateAttachReply(older, OnePart(), 2);
  ASSERT_TRUE(without.ok()) << without.status() << ": engines may be upgraded before their node";
  EXPECT_FALSE(without->probe_key.has_value());
  const std::vector<Spoiled> cases = {
      {[](auto& m) { m.set_session_token("t"); }, "session_token is 1"},
      {[](auto& m) { m.set_namespace_fingerprint("t"); }, "namespace_fingerprint is 1"},
      {[](auto& m) { m.set_root(std::string(33, 'r')); }, "root is 33"},
      {[](auto& m) { m.set_probe_key("p"); }, "probe_key is 1"},
      {[](auto& m) { m.clear_node(); }, "node is 0"},
      {[](auto& m) { m.set_incarnation(0); }, "incarnation is 0"},
      {[](auto& m) { m.clear_arenas(); }, "the number of arenas is 0"},
      {[](auto& m) { m.set_staging_bytes(0); },
       "the number of descriptors is 2; staging, arenas and slot maps of the reply need 1"},
      {[](auto& m) { m.set_staging_bytes(0), *m.add_arenas() = m.arenas(0); }, "arena is 3; it is named twice"},
      {[](auto& m) { m.mutable_arenas(0)->set_payload_offset(127); }, "payload_offset is 127"},
      {[](auto& m) { m.mutable_arenas(0)->set_slot_bytes(12095); }, "slot_bytes is 12095; behind payload_offset 4096"},
      {[](auto& m) { m.mutable_arenas(0)->set_bytes(0); }, "arena.bytes is 0"},
  };
  for (const Spoiled& each : cases) {
    v1::AttachReply reply = GoodReply();
    each.spoil(reply);
    const absl::Status status = ValidateAttachReply(reply, OnePart(), 2).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << each.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(each.says));
  }
}

TEST(ValidateRepliesTest, AHostPeersArenasAreWhatItsDescriptorsAre) {
  v1::AttachReply good;
  good.set_incarnation(7);
  for (const uint32_t id : {0, 2}) {
    good.add_arenas()->set_arena(id);
    good.mutable_arenas(good.arenas_size() - 1)->set_bytes(1 << 20);
  }
  const auto grant = ValidateHostPeerReply(good, 2);
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_EQ(grant->incarnation, 7u);
  EXPECT_EQ(grant->arenas[1].arena(), 2u);
  const auto refusal = [&](const std::function<void(v1::AttachReply&)>& spoil, size_t descriptors = 2) {
    v1::AttachReply reply = good;
    spoil(reply);
    return std::string(ValidateHostPeerReply(reply, descriptors).status().message());
  };
  EXPECT_THAT(refusal([](auto& m) { m.set_incarnation(0); }), HasSubstr("incarnation is 0"));
  EXPECT_THAT(refusal([](auto& m) { m.clear_arenas(); }), HasSubstr("the number of arenas is 0"));
  EXPECT_THAT(refusal([](auto&) {}, 1), HasSubstr("the number of descriptors is 1"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_arenas(0)->set_arena(2); }), HasSubstr("ids must ascend"));
  EXPECT_THAT(refusal([](auto& m) { m.mutable_arenas(1)->set_bytes(0); }), HasSubstr("arena.bytes is 0"));
}

v1::Miss Missed(uint32_t first, uint32_t count, int cause = v1::MISS_CAUSE_COLD) {
  v1::Miss miss;
  miss.set_first(first);
  miss.set_count(count);
  miss.set_cause(static_cast<v1::MissCause>(cause));
  return miss;
}

TEST(ValidateRepliesTest, MissesCoverExactlyWhatIsNotMatched) {
  const auto verdict = [](uint32_t matched, const std::vector<v1::Miss>& misses) {
    v1::Acquired message;
    message.set_matched_blocks(matched);
    for (const v1::Miss& miss : misses) *message.add_misses() = miss;
    return std::string(ValidateAcquired(message, 5, 1, {}).message());
  };
  EXPECT_EQ(verdict(5, {}), "");
  EXPECT_EQ(verdict(2, {Missed(2, 1), Missed(3, 2, v1::MISS_CAUSE_UNREACHABLE)}), "");
  EXPECT_THAT(verdict(6, {}), HasSubstr("matched_blocks is 6"));
  EXPECT_THAT(verdict(2, {}), HasSubstr("the end of misses is 2; it must be 5"));
  EXPECT_THAT(verdict(2, {Missed(3, 2)}), HasSubstr("miss.first is 3"));
  EXPECT_THAT(verdict(2, {Missed(2, 4)}), HasSubstr("the end of misses is 6"));
  EXPECT_THAT(verdict(2, {Missed(2, UINT32_MAX)}), HasSubstr("the end of misses is 4294967297"));
  EXPECT_THAT(verdict(2, {Missed(2, 0)}), HasSubstr("count above 0"));
  EXPECT_THAT(verdict(2, {Missed(2, 3, 0)}), HasSubstr("miss.cause is 0"));
  EXPECT_THAT(verdict(2, {Missed(2, 3, 14)}), HasSubstr("miss.cause is 14"));
}

TEST(ValidateRepliesTest, LostTakesAwayAndExplains) {
  v1::Lost lost;
  lost.set_matched_blocks(1);
  *lost.add_misses() = Missed(1, 2);
  EXPECT_TRUE(ValidateLost(lost, 3).ok());
  EXPECT_THAT(std::string(ValidateLost(lost, 4).message()), HasSubstr("the end of misses is 3; it must be 4"));
  EXPECT_THAT(std::string(ValidateLost(lost, 0).message()), HasSubstr("matched_blocks is 1; only 0"));
}

TEST(ValidateRepliesTest, ReservedRunsAscendAndCountsFit) {
  v1::Reserved reserved;
  v1::Reserved::Run* first = reserved.add_wanted();
  first->set_first(1);
  first->set_count(2);
  v1::Reserved::Run* second = reserved.add_wanted();
  second->set_first(4);
  second->set_count(1);
  reserved.set_held(2);
  EXPECT_TRUE(ValidateReserved(reserved, 5).ok());
  EXPECT_THAT(std::string(ValidateReserved(reserved, 4).message()), HasSubstr("the end of wanted is 5"));
  second->set_first(2);
  EXPECT_THAT(std::string(ValidateReserved(reserved, 5).message()), HasSubstr("wanted.first is 2"));
  second->set_first(4);
  second->set_count(UINT32_MAX);
  EXPECT_THAT(std::string(ValidateReserved(reserved, 5).message()), HasSubstr("the end of wanted is 4294967299"));
  second->set_count(1);
  reserved.set_refused(UINT32_MAX);
  EXPECT_THAT(std::string(ValidateReserved(reserved, 5).message()), HasSubstr("together is 4294967300"));
}

TEST(ValidateRepliesTest, CommittedCountsAddUp) {
  v1::Committed committed;
  committed.set_committed(2);
  committed.set_duplicate(1);
  EXPECT_TRUE(ValidateCommitted(committed, 3).ok());
  EXPECT_THAT(std::string(ValidateCommitted(committed, 2).message()), HasSubstr("together is 3; the request had 2"));
  EXPECT_FALSE(ValidateCommitted(committed, 4).ok());
}

}  // namespace
}  // namespace stem
