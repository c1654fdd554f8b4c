// Attaching, losing the node, and finding its successor.
#include "client/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "client/cache_client.h"
#include "tests/support/client_fixture.h"

namespace stem::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Message = v1::ClientMessage;

class ConnectionTest : public ClientFixture {
 protected:
  absl::Status ConnectTo(FakeNode::Options options, absl::Time deadline) {
    StartNode(std::move(options));
    return CacheClient::Connect({.node = node_->target(), .space = SmallSpec(kTestBlockBytes)}, deadline).status();
  }
};

TEST_F(ConnectionTest, AttachTellsWhoTheNodeIs) {
  Start();
  EXPECT_TRUE(client_->connected());
  EXPECT_EQ(client_->node(), "fake");
  EXPECT_EQ(client_->incarnation(), 1u);
  EXPECT_EQ(client_->fingerprint(), node_->space());
}

TEST_F(ConnectionTest, NobodyListensIsUnavailableAtOnce) {
  const absl::Status status =
      CacheClient::Connect({.node = "unix://" + directory_.path() + "/none.sock", .space = SmallSpec(64)}, Soon())
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("none.sock.attach"));
}

TEST_F(ConnectionTest, BadOptionsAreRefusedWithTheValue) {
  const auto refused = [](CacheClient::Options options) {
    return CacheClient::Connect(std::move(options), Soon()).status();
  };
  EXPECT_THAT(refused({.node = "localhost:9", .space = SmallSpec(64)}).message(), HasSubstr("localhost:9"));
  EXPECT_THAT(refused({.node = "unix:///" + std::string(120, 'x'), .space = SmallSpec(64)}).code(),
              absl::StatusCode::kInvalidArgument);
  NamespaceSpec spec = SmallSpec(64);
  spec.block_tokens = 0;
  EXPECT_THAT(refused({.node = "unix:///x", .space = spec}).message(), HasSubstr("block_tokens is 0"));
  EXPECT_THAT(refused({.node = "unix:///x", .space = SmallSpec(64), .client_name = std::string(129, 'n')}).message(),
              HasSubstr("129"));
}

TEST_F(ConnectionTest, RefusalNamesWhatTheNodeSaid) {
  const absl::Status status = ConnectTo({.spec = SmallSpec(kTestBlockBytes),
                                         .alter_reply =
                                             [](v1::AttachReply& reply) {
                                               reply.set_code(9);
                                               reply.set_message("kv_dtype differs (fp8, bf16)");
                                             }},
                                        Soon());
  EXPECT_EQ(status, absl::FailedPreconditionError("kv_dtype differs (fp8, bf16)"));
}

TEST_F(ConnectionTest, BadAttachRepliesAreRefused) {
  const std::vector<std::function<void(v1::AttachReply&)>> alterations = {
      [](v1::AttachReply& reply) { reply.set_root("short"); },
      [](v1::AttachReply& reply) { reply.set_session_token("x"); },
      [](v1::AttachReply& reply) { reply.set_incarnation(0); },
      [](v1::AttachReply& reply) { reply.clear_arenas(); },
      [](v1::AttachReply& reply) { *reply.add_arenas() = reply.arenas(0); },  // one descriptor short
      [](v1::AttachReply& reply) {
        reply.mutable_arenas(0)->set_bytes(1ULL << 40);
      },  // beyond the file: no SIGBUS later
      [](v1::AttachReply& reply) { reply.mutable_arenas(0)->set_payload_offset(64); },  // no room for a header
      [](v1::AttachReply& reply) { reply.mutable_arenas(0)->set_slot_bytes(8192); },    // no room for a payload
      [](v1::AttachReply& reply) { reply.set_staging_bytes(1ULL << 43); },
  };
  for (size_t i = 0; i < alterations.size(); ++i) {
    const absl::Status status = ConnectTo({.spec = SmallSpec(kTestBlockBytes), .alter_reply = alterations[i]}, Soon());
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << i << ": " << status;
    node_.reset();
  }
}

TEST_F(ConnectionTest, SlotMapsOfAnotherLengthAreRefused) {
  for (const int64_t more : {-8, 8, 1 << 30}) {
    const auto alter = [more](v1::AttachReply& reply) {
      v1::ArenaMap& arena = *reply.mutable_arenas(0);
      arena.set_slot_map_bytes(arena.slot_map_bytes() + static_cast<uint64_t>(more));
    };
    const absl::Status status = ConnectTo({.spec = SmallSpec(kTestBlockBytes), .alter_reply = alter, .show_slots = true}, Soon());
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << more << ": " << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("slot map of arena 7"));
    node_.reset();
  }
}

TEST_F(ConnectionTest, SilentAttachEndsAtTheDeadline) {
  const absl::Status status = ConnectTo({.spec = SmallSpec(kTestBlockBytes), .silent_attach = true}, Within(30));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ConnectionTest, NodeDeathEndsOutstandingCallsAtOnce) {
  Start();
  node_->SetScript([](const Message& message, v1::NodeMessage&) { return message.has_acquire(); });
  std::thread killer([&] {
    node_->Take(Message::kAcquire);
    node_.reset();
  });
  const absl::Status status = client_->Acquire(keys_, {}, absl::Now() + absl::Hours(1)).status();
  killer.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(client_->connected());
}

TEST_F(ConnectionTest, EndOfTheAttachSocketEndsTheSession) {
  Start();
  node_->HangUp();
  while (client_->connected()) std::this_thread::yield();
  EXPECT_TRUE(client_->Acquire(keys_, {}, Soon()).ok());  // a new session with the same incarnation
  EXPECT_EQ(node_->sessions(), 2u);
  EXPECT_EQ(client_->stats().reattaches, 1u);
}

TEST_F(ConnectionTest, NextCallFindsTheNewIncarnationWhileOldStemsStayReadable) {
  Start();
  HoldBlocks(2);
  auto old_stem = client_->Acquire(std::span(keys_).first(2), {}, Soon());
  ASSERT_TRUE(old_stem.ok()) << old_stem.status();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  StartNode({.spec = spec_, .incarnation = 2});
  node_->Hold(keys_[0], Payload(9));
  auto stem = client_->Acquire(std::span(keys_).first(2), {}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  EXPECT_EQ(client_->incarnation(), 2u);
  EXPECT_EQ(client_->stats().reattaches, 1u);
  EXPECT_EQ(stem->matched_blocks(), 1u);
  Pages now(1), before(2);
  EXPECT_EQ(client_->Load(*stem, 0, now.spans, Soon()).blocks_loaded, 1u);
  EXPECT_EQ(Bytes(now.spans[0]), Payload(9));
  EXPECT_EQ(client_->Load(*old_stem, 0, before.spans, Soon()).blocks_loaded, 2u);
  EXPECT_EQ(Bytes(before.spans[1]), Payload(1));
}

TEST_F(ConnectionTest, GoneNodeIsNotAskedAgainBeforeTheBackoff) {
  Start();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  EXPECT_EQ(client_->Acquire(keys_, {}, Soon()).status().code(), absl::StatusCode::kUnavailable);
  const absl::Status second = client_->Acquire(keys_, {}, Soon()).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(second.message(), HasSubstr("the next attempt is in"));
  StartNode({.spec = spec_, .incarnation = 2});
  absl::Status status;
  const absl::Time give_up = Soon();
  do status = client_->Acquire(keys_, {}, Soon()).status();
  while (absl::IsUnavailable(status) && absl::Now() < give_up);
  EXPECT_TRUE(status.ok()) << status;
}

TEST_F(ConnectionTest, AnotherRootIsRefused) {
  Start();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  StartNode({.spec = spec_, .incarnation = 2, .trust_group = "another"});
  EXPECT_EQ(client_->Acquire(keys_, {}, Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ConnectionTest, StemsOutliveTheClient) {
  Start();
  HoldBlocks(1);
  auto stem = client_->Acquire(std::span(keys_).first(1), {}, Soon());
  auto view = client_->Read(*stem, 0, Soon());
  client_.reset();
  node_.reset();
  EXPECT_EQ(Bytes(view->payload()), Payload(0));
  EXPECT_FALSE(view->intact());
}

TEST_F(ConnectionTest, ManyThreadsShareOneReattach) {
  Start();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  StartNode({.spec = spec_, .incarnation = 2});
  std::vector<std::thread> threads;
  std::atomic<int> served = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) served += client_->Acquire(keys_, {}, Soon()).ok() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(served, 160);
  EXPECT_EQ(node_->sessions(), 1u);
}

}  // namespace
}  // namespace stem::testing
