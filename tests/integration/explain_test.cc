// Each cause of a miss, produced for real on real nodes and a real directory, and what `stemctl explain` says of it. What only the request
// knows is explained by its id.
#include "services/ctl/explain.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/miss_cause.h"
#include "proto/validate_operator.h"
#include "services/ctl/levers.h"
#include "services/ctl/request_streams.h"
#include "services/ctl/requests.h"
#include "services/ctl/why.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::FillWithPosition;
using ::stem::testing::Publish;
using ::stem::testing::Soon;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 65536;

std::vector<uint32_t> Tokens(uint32_t blocks, uint32_t first_token, uint32_t tail = 0) {
  std::vector<uint32_t> tokens(16 * blocks + tail);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = first_token + static_cast<uint32_t>(i);
  return tokens;
}

struct Prompt {
  std::vector<uint32_t> tokens;
  std::vector<BlockKey> keys;
  std::optional<Probe> probe;
};

class ExplainTest : public ::testing::Test {
 protected:
  void Start(const InProcessCluster::Options& options) {
    cluster_ = std::make_unique<InProcessCluster>(options);
    for (size_t i = 0; i < options.nodes; ++i) clients_.push_back(cluster_->Connect(i, TestSpec(kBlockBytes)));
  }

  // As an engine makes keys: by the hasher of its client.
  static Prompt PromptOf(const CacheClient& client, const std::vector<uint32_t>& tokens) {
    ChainHasher hasher = *client.NewHasher();
    Prompt prompt{.tokens = tokens, .keys = *hasher.HashPrompt("", tokens, {}), .probe = hasher.probe()};
    return prompt;
  }
  Prompt PromptOf(uint32_t blocks, uint32_t first_token) const { return PromptOf(*clients_[0], Tokens(blocks, first_token)); }

  static uint32_t PublishPrompt(CacheClient& client, const Prompt& prompt) {
    return Publish(client, prompt.keys, FillWithPosition, {.parent = std::nullopt, .parts = {}, .traceparent = "", .probe = prompt.probe});
  }
  Stem Ask(size_t node, const Prompt& prompt, const std::string& request, AcquireOptions options = {}) {
    options.request = request;
    options.probe = prompt.probe;
    return *clients_[node]->Acquire(prompt.keys, options, Soon());
  }
  static void LoadAll(CacheClient& client, const Stem& stem) {
    std::vector<std::vector<std::byte>> memory(stem.matched_blocks(), std::vector<std::byte>(kBlockBytes));
    (void)client.Load(stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon());
  }

  StatusTargets Targets() const {
    return {.nodes = cluster_->sockets(),
            .directories = cluster_->directory_addresses(),
            .secret_file = cluster_->secret_file(),
            .deadline = absl::Seconds(10)};
  }
  // As `stemctl explain --tokens` does it: the namespace from the nodes, the keys from the secret.
  Explanation OfTokens(const std::vector<uint32_t>& tokens, const SpaceChoice& choice = {}) {
    const absl::StatusOr<std::vector<KnownSpace>> spaces = ReadNamespaces(Targets());
    EXPECT_TRUE(spaces.ok()) << spaces.status();
    const absl::StatusOr<KnownSpace> space = ChooseSpace(*spaces, choice);
    EXPECT_TRUE(space.ok()) << space.status();
    const absl::StatusOr<PromptKeys> prompt = KeysOfTokens(tokens, *space, "", **ReadSecret(cluster_->secret_file()));
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    absl::StatusOr<Explanation> explanation = ExplainPrompt(Targets(), *space, *prompt);
    EXPECT_TRUE(explanation.ok()) << explanation.status();
    return *std::move(explanation);
  }
  // The record of a request is there once the request has ended, which its answer need not wait for.
  Explanation OfRequest(const std::string& request) {
    absl::StatusOr<Explanation> explanation;
    EXPECT_TRUE(Eventually([&] { return (explanation = ExplainRequest(Targets(), request)).ok(); })) << explanation.status();
    return *std::move(explanation);
  }

  // Publishes prompts, more than fit, until one of them is missed for `cause`: which goes first is the policy's to say.
  Explanation PublishUntil(v1::MissCause cause) {
    std::vector<Prompt> prompts;
    Explanation found;
    EXPECT_TRUE(Eventually([&] {
      prompts.push_back(PromptOf(4, 100000 * static_cast<uint32_t>(prompts.size() + 1)));
      PublishPrompt(*clients_[0], prompts.back());
      cluster_->Settle();
      return std::any_of(prompts.begin(), prompts.end() - 1, [&](const Prompt& prompt) {
        found = OfTokens(prompt.tokens);
        return FirstCause(found) == cause;
      });
    })) << "no miss was " << CauseName(cause);
    return found;
  }

  static v1::MissCause FirstCause(const Explanation& explanation) {
    if (explanation.record.has_value()) {
      return explanation.record->misses().empty() ? v1::MISS_CAUSE_UNSPECIFIED : explanation.record->misses(0).cause();
    }
    return explanation.reply.misses().empty() ? v1::MISS_CAUSE_UNSPECIFIED : explanation.reply.misses(0).miss().cause();
  }
  static v1::MissCause CauseOfBlock(const v1::RequestRecord& record, uint32_t block) {
    for (const v1::Miss& miss : record.misses()) {
      if (block >= miss.first() && block < miss.first() + miss.count()) return miss.cause();
    }
    return v1::MISS_CAUSE_UNSPECIFIED;
  }

  std::unique_ptr<InProcessCluster> cluster_;
  std::vector<std::unique_ptr<CacheClient>> clients_;
};

TEST_F(ExplainTest, Cold) {
  Start({.nodes = 1});
  const Explanation explanation = OfTokens(Tokens(3, 1));
  EXPECT_EQ(FirstCause(explanation), v1::MISS_CAUSE_COLD);
  EXPECT_EQ(explanation.reply.misses(0).miss().count(), 3u);
  EXPECT_THAT(explanation.ToText(), HasSubstr("never published"));
}

TEST_F(ExplainTest, HeldBlocksAreShownWithTheirHolderAndKeysAreTheEnginesOwn) {
  Start({.nodes = 2});
  const Prompt prompt = PromptOf(4, 1);
  ASSERT_EQ(PublishPrompt(*clients_[1], prompt), 4u);
  cluster_->Settle();
  const Explanation explanation = OfTokens(Tokens(6, 1));
  EXPECT_EQ(std::vector<BlockKey>(explanation.prompt.keys.begin(), explanation.prompt.keys.begin() + 4), prompt.keys);
  EXPECT_EQ(explanation.reply.matched_blocks(), 4u);
  const nlohmann::json json = explanation.ToJson();
  EXPECT_EQ(json["held"][0]["node"], "node-1");
  EXPECT_EQ(json["held"][0]["tier"], "dram");
  EXPECT_EQ(json["first_missing_key"], explanation.prompt.keys[4].ToHex());
}

TEST_F(ExplainTest, BelowBlock) {
  Start({.nodes = 1});
  const Explanation explanation = OfTokens(Tokens(2, 1, 5));
  EXPECT_EQ(explanation.prompt.tail_tokens, 5u);
  EXPECT_THAT(explanation.ToText(), HasSubstr("below_block"));
  const KnownSpace space = (*ReadNamespaces(Targets()))[0];
  const auto none = KeysOfTokens(Tokens(0, 1, 5), space, "", **ReadSecret(cluster_->secret_file()));
  EXPECT_THAT(none.status().message(), HasSubstr("below_block"));
}

TEST_F(ExplainTest, EvictedWithTierNodeTimeAgeAndPolicy) {
  Start({.nodes = 1, .dram_bytes = 1 << 20});
  const Explanation explanation = PublishUntil(v1::MISS_CAUSE_EVICTED);
  ASSERT_EQ(explanation.reply.misses(0).departures_size(), 1);
  const v1::Departure& left = explanation.reply.misses(0).departures(0);
  EXPECT_EQ(left.node(), "node-0");
  EXPECT_EQ(left.tier(), v1::TIER_DRAM);
  EXPECT_EQ(left.policy(), "stem");
  EXPECT_THAT(explanation.ToText(), HasSubstr("evicted from dram on node-0"));
}

TEST_F(ExplainTest, SpillRejectedByItsAdmissionPolicy) {
  Start({.nodes = 1, .dram_bytes = 1 << 20, .ssd_bytes = 64 << 20, .admission = "second-touch"});
  EXPECT_THAT(PublishUntil(v1::MISS_CAUSE_SPILL_REJECTED).ToText(), HasSubstr("spill rejected: second-touch"));
}

TEST_F(ExplainTest, NodeLost) {
  Start({.nodes = 2});
  const Prompt prompt = PromptOf(4, 1);
  ASSERT_EQ(PublishPrompt(*clients_[1], prompt), 4u);
  cluster_->Settle();
  clients_.pop_back();
  cluster_->StopNode(1);
  EXPECT_TRUE(Eventually([&] { return FirstCause(OfTokens(prompt.tokens)) == v1::MISS_CAUSE_NODE_LOST; }));
  EXPECT_THAT(OfTokens(prompt.tokens).ToText(), HasSubstr("are lost"));
}

TEST_F(ExplainTest, NotYetWhileAnotherComputes) {
  Start({.nodes = 1});
  const Prompt prompt = PromptOf(4, 1);
  AcquireOptions computing;
  computing.compute = absl::Seconds(50);
  const Stem stem = Ask(0, prompt, "first", computing);
  EXPECT_EQ(FirstCause(OfTokens(prompt.tokens)), v1::MISS_CAUSE_NOT_YET);
  EXPECT_THAT(OfTokens(prompt.tokens).ToText(), HasSubstr("being computed"));
}

TEST_F(ExplainTest, IncompatibleWithTheFieldThatDiffers) {
  Start({.nodes = 1});
  NamespaceSpec other = TestSpec(kBlockBytes);
  other.kv_dtype = "fp8_e4m3";
  const std::unique_ptr<CacheClient> engine = cluster_->Connect(0, other);
  const std::vector<uint32_t> tokens = Tokens(3, 1);
  const Prompt published = PromptOf(*engine, tokens);
  ASSERT_EQ(PublishPrompt(*engine, published), 3u);
  const Prompt asked = PromptOf(*clients_[0], tokens);
  EXPECT_EQ(asked.probe, published.probe);
  const SpaceChoice ours = {.model = "", .fingerprint = clients_[0]->fingerprint().ToHex(), .tenant = ""};
  ASSERT_TRUE(Eventually([&] { return FirstCause(OfTokens(tokens, ours)) == v1::MISS_CAUSE_INCOMPATIBLE; })) << "told by heartbeats";
  EXPECT_THAT(OfTokens(tokens, ours).ToText(), HasSubstr("kv_dtype is bf16 here and fp8_e4m3 there"));

  const Stem stem = Ask(0, asked, "incompatible");
  EXPECT_EQ(stem.misses()[0].cause, v1::MISS_CAUSE_INCOMPATIBLE);
  EXPECT_EQ(stem.difference().field(), "kv_dtype") << "the engine is told, too";
  const Explanation explanation = OfRequest("incompatible");
  EXPECT_EQ(FirstCause(explanation), v1::MISS_CAUSE_INCOMPATIBLE);
  EXPECT_THAT(explanation.ToText(), HasSubstr("kv_dtype is bf16 here and fp8_e4m3 there"));
  // The whole answer: what was then, and what is now, by no word of it cold.
  EXPECT_THAT(explanation.ToText(), ::testing::Not(HasSubstr("cold")));
  EXPECT_THAT(explanation.ToText(), ::testing::Not(HasSubstr("never published")));
  const nlohmann::json json = explanation.ToJson();
  ASSERT_EQ(json["misses"].size(), 1u);
  EXPECT_EQ(json["misses"][0]["cause"], "incompatible");
  EXPECT_EQ(json.value(nlohmann::json::json_pointer("/first_missing_now/cause"), "incompatible"), "incompatible") << "where it is asked for";

  AcquireOptions computing;
  computing.compute = absl::Seconds(1);
  const Stem ours_to_compute = Ask(0, asked, "to compute", computing);
  EXPECT_EQ(ours_to_compute.misses()[0].cause, v1::MISS_CAUSE_INCOMPATIBLE);
  EXPECT_EQ(ours_to_compute.difference().field(), "kv_dtype") << "known before this session said that it computes it";
  const v1::RequestRecord computed = *OfRequest("to compute").record;
  EXPECT_EQ(computed.probe(), std::string(asked.probe->bytes()));
  EXPECT_TRUE(std::none_of(computed.steps().begin(), computed.steps().end(), [](const auto& step) { return step.name() == "await"; }))
      << "nobody was waited for";

  const Prompt unknown = PromptOf(*clients_[0], Tokens(3, 900000));
  EXPECT_EQ(Ask(0, unknown, "cold").misses()[0].cause, v1::MISS_CAUSE_COLD) << "another prompt";
}

TEST_F(ExplainTest, AfterADirectoryRestartedItIsToldAgainOfPrompts) {
  Start({.nodes = 1});
  const std::unique_ptr<CacheClient> engine = cluster_->Connect(0, TestSpec(kBlockBytes, "another-model"));
  const std::vector<uint32_t> tokens = Tokens(3, 1);
  ASSERT_EQ(PublishPrompt(*engine, PromptOf(*engine, tokens)), 3u);
  cluster_->StopDirectory(0);
  cluster_->StartDirectory(0);
  ASSERT_TRUE(cluster_->node(0).SetDirectories(cluster_->directory_addresses()).ok());
  const SpaceChoice ours = {.model = "test-model", .fingerprint = "", .tenant = ""};
  EXPECT_TRUE(Eventually([&] { return FirstCause(OfTokens(tokens, ours)) == v1::MISS_CAUSE_INCOMPATIBLE; }));
  EXPECT_THAT(OfTokens(tokens, ours).ToText(), HasSubstr("model is test-model here and another-model there"));
}

TEST_F(ExplainTest, UnknownWhileNoDirectoryAnswers) {
  Start({.nodes = 1});
  cluster_->StopDirectory(0);
  const Prompt prompt = PromptOf(3, 1);
  AcquireOptions options;
  options.request = "unknown";
  ASSERT_TRUE(clients_[0]->Acquire(prompt.keys, options, Soon()).ok());
  const Explanation explanation = OfRequest("unknown");
  EXPECT_EQ(FirstCause(explanation), v1::MISS_CAUSE_UNKNOWN);
  EXPECT_THAT(explanation.ToText(), HasSubstr("no directory could say"));
}

TEST_F(ExplainTest, IntegrityAtTheReaderAndAtItsOwner) {
  Start({.nodes = 2, .map_host_peers = false});
  const Prompt prompt = PromptOf(3, 1);
  ASSERT_EQ(PublishPrompt(*clients_[0], prompt), 3u);
  cluster_->Settle();
  const GroupMemory& memory = *cluster_->node(0).memories()[0];
  BlockPin pin = memory.pool->Pin({clients_[0]->fingerprint(), prompt.keys[1]});
  ASSERT_TRUE(pin.valid());
  memory.arena.bytes()[pin.slot() * memory.pool->geometry().slot_bytes + memory.pool->geometry().payload_offset + 7] ^= std::byte{1};
  pin = BlockPin();
  LoadAll(*clients_[1], Ask(1, prompt, "corrupt"));
  const Explanation explanation = OfRequest("corrupt");
  EXPECT_EQ(explanation.record->blocks_matched(), 1u);
  EXPECT_EQ(FirstCause(explanation), v1::MISS_CAUSE_INTEGRITY);
  // The owner proves its copy again, and withdraws it.
  EXPECT_TRUE(Eventually([&] { return FirstCause(OfTokens(prompt.tokens)) == v1::MISS_CAUSE_INTEGRITY; }));
  EXPECT_THAT(OfTokens(prompt.tokens).ToText(), HasSubstr("failed its proof in dram on node-0"));
}

TEST_F(ExplainTest, RecomputeCheaper) {
  Start({.nodes = 2, .map_host_peers = false});
  const Prompt before = PromptOf(4, 700000), prompt = PromptOf(4, 1);
  ASSERT_EQ(PublishPrompt(*clients_[0], before), 4u);
  ASSERT_EQ(PublishPrompt(*clients_[0], prompt), 4u);
  cluster_->Settle();
  LoadAll(*clients_[1], Ask(1, before, "teaches how long bringing takes"));
  AcquireOptions fast;
  fast.block_compute = absl::Microseconds(1);
  (void)Ask(1, prompt, "fast", fast);
  const Explanation explanation = OfRequest("fast");
  EXPECT_EQ(FirstCause(explanation), v1::MISS_CAUSE_RECOMPUTE_CHEAPER);
  EXPECT_EQ(explanation.reply.matched_blocks(), 1u) << "it is held all the same";
  EXPECT_THAT(explanation.ToText(), HasSubstr("held now, by node-0"));
}

TEST_F(ExplainTest, RefusedForWantOfRoomAndUnreachableBehindThat) {
  Start({.nodes = 2, .dram_bytes = 1 << 20, .map_host_peers = false});
  const Prompt prompt = PromptOf(8, 1), held = PromptOf(12, 500000);
  ASSERT_EQ(PublishPrompt(*clients_[0], prompt), 8u);
  PublishPrompt(*clients_[1], held);
  cluster_->Settle();
  const Stem holds = *clients_[1]->Acquire(held.keys, {}, Soon());  // and keeps node 1's slots
  ASSERT_GT(holds.matched_blocks(), 8u);
  const Stem stem = Ask(1, prompt, "no room");
  const Explanation explanation = OfRequest("no room");
  const uint32_t first = explanation.record->blocks_matched();
  ASSERT_LT(first, 7u);
  EXPECT_EQ(CauseOfBlock(*explanation.record, first), v1::MISS_CAUSE_REFUSED);
  EXPECT_EQ(CauseOfBlock(*explanation.record, first + 1), v1::MISS_CAUSE_UNREACHABLE);
  EXPECT_THAT(explanation.ToText(), HasSubstr("refused"));
}

TEST_F(ExplainTest, Deadline) {
  Start({.nodes = 2, .map_host_peers = false});
  const Prompt prompt = PromptOf(4, 1);
  int attempt = 0;
  absl::StatusOr<Explanation> explanation;
  // So little time that the node cannot look elsewhere: now and then the request does not even reach it.
  ASSERT_TRUE(Eventually([&] {
    const std::string request = absl::StrCat("hasty-", ++attempt);
    AcquireOptions options;
    options.request = request;
    (void)clients_[1]->Acquire(prompt.keys, options, absl::Now() + absl::Microseconds(20 * (attempt % 20)));
    explanation = ExplainRequest(Targets(), request);
    return explanation.ok() && FirstCause(*explanation) == v1::MISS_CAUSE_DEADLINE;
  }));
  EXPECT_THAT(explanation->ToText(), HasSubstr("time ran out"));
}

TEST_F(ExplainTest, ASilentNodeIsNamed) {
  Start({.nodes = 2});
  clients_.pop_back();
  cluster_->StopNode(1);  // the directory has not noticed yet
  const Explanation explanation = OfTokens(Tokens(2, 1));
  EXPECT_EQ(std::vector<std::string>(explanation.reply.silent_nodes().begin(), explanation.reply.silent_nodes().end()),
            std::vector<std::string>{"node-1"});
}

TEST_F(ExplainTest, WhatIsNotKnownIsSaidWithWhatIs) {
  Start({.nodes = 1});
  EXPECT_TRUE(absl::IsNotFound(ExplainRequest(Targets(), "nobody").status()));
  const auto spaces = ReadNamespaces(Targets());
  ASSERT_TRUE(spaces.ok());
  EXPECT_THAT(ChooseSpace(*spaces, {.model = "no-model", .fingerprint = "", .tenant = ""}).status().message(), HasSubstr("test-model"));
  const auto other = cluster_->Connect(0, TestSpec(kBlockBytes, "second-model"));
  EXPECT_THAT(ChooseSpace(*ReadNamespaces(Targets()), {}).status().message(), HasSubstr("several namespaces fit"));
}

// Whatever becomes of requests, their records account for every block once: hits to what was got, causes to the rest.
TEST_F(ExplainTest, HitsAndCausesAddUpToWhatWasAsked) {
  const uint32_t seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  Start({.nodes = 2, .dram_bytes = 2 << 20, .ssd_bytes = 4 << 20, .map_host_peers = seed % 2 == 0, .admission = "second-touch"});
  const auto draw = [&](uint32_t below) { return std::uniform_int_distribution<uint32_t>(0, below - 1)(random); };
  for (int i = 0; i < 200; ++i) {
    const Prompt prompt = PromptOf(1 + draw(16), 10000 * draw(12));
    CacheClient& client = *clients_[draw(2)];
    AcquireOptions options;
    options.request = absl::StrCat("r", i);
    options.probe = prompt.probe;
    if (draw(3) == 0) options.block_compute = absl::Microseconds(1 + draw(2000));
    const absl::StatusOr<Stem> stem = client.Acquire(prompt.keys, options, absl::Now() + absl::Microseconds(draw(5) == 0 ? draw(2000) : 5'000'000));
    if (stem.ok() && draw(2) == 0) LoadAll(client, *stem);
    if (draw(2) == 0) PublishPrompt(client, prompt);
  }
  v1::RequestsRequest all;
  all.set_recent(kRequestsRecentMax);
  const std::vector<NamedNode> nodes = *NodesToAsk(Targets());
  size_t acquires = 0;
  uint64_t missed = 0, caused = 0;
  const auto check = [&](const v1::RequestRecord& record) {
    if (record.kind() != "acquire") return true;
    ++acquires;
    uint64_t next = 0;
    for (const v1::RequestRecord::Hit& hit : record.hits()) next += hit.blocks();
    EXPECT_EQ(next, record.blocks_matched()) << record.ShortDebugString();
    for (const v1::Miss& miss : record.misses()) {
      EXPECT_EQ(miss.first(), next) << record.ShortDebugString();
      EXPECT_NE(miss.cause(), v1::MISS_CAUSE_UNSPECIFIED);
      next += miss.count();
      caused += miss.count();
    }
    EXPECT_EQ(next, record.blocks_asked()) << record.ShortDebugString();
    missed += record.blocks_asked() - record.blocks_matched();
    return true;
  };
  EXPECT_TRUE(Eventually([&] {
    acquires = missed = caused = 0;
    for (const auto& end : FollowRequests(nodes, cluster_->secret_file(), all, absl::Seconds(20), {.show = check})) EXPECT_TRUE(end.reply.ok());
    return acquires >= 120;  // the hastiest never reach a node
  }));
  EXPECT_EQ(caused, missed);
  EXPECT_GT(missed, 0u);
}

}  // namespace
}  // namespace stem
