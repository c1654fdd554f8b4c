#include "services/directory/known_prompts.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

const Probe kProbe = {{.low = 5, .high = 6}};

NamespaceSpec Spec(const std::string& kv_dtype, const std::string& model = "m") {
  return {.model = model, .kv_dtype = kv_dtype, .layout = "opaque", .block_tokens = 16, .parts = {{.id = 0, .block_bytes = 64}}};
}
PublishedCall Published(const NamespaceSpec& spec, std::vector<Probe> probes) {
  return {.spec = spec, .space = FingerprintOf(spec, "group"), .probes = std::move(probes)};
}

v1::MatchReply Missed(v1::MissCause cause, uint32_t first = 0) {
  v1::MatchReply reply;
  v1::Miss* const miss = reply.add_misses();
  miss->set_first(first);
  miss->set_count(3);
  miss->set_cause(cause);
  return reply;
}

class KnownPromptsTest : public ::testing::Test {
 protected:
  KnownPromptsTest() {
    prompts_.Learn(Published(Spec("bf16"), {kProbe}));
    prompts_.Learn(Published(Spec("fp8", "another"), {kProbe}));
    prompts_.Learn(Published(Spec("fp8"), {}));
    call_.space = FingerprintOf(Spec("fp8"), "group");
    call_.probe = kProbe;
  }

  KnownPrompts prompts_;
  MatchCall call_;
};

TEST_F(KnownPromptsTest, AColdBeginningThatIsKnownElsewhereIsIncompatibleAndTheNearestSaysInWhat) {
  v1::MatchReply reply = Missed(v1::MISS_CAUSE_COLD);
  prompts_.Label(call_, reply);
  EXPECT_EQ(reply.misses(0).cause(), v1::MISS_CAUSE_INCOMPATIBLE);
  ASSERT_EQ(reply.known_as_size(), 2);
  const v1::Difference difference = prompts_.DifferenceFrom(call_.space, reply);
  EXPECT_TRUE(difference.field() == "kv_dtype" || difference.field() == "model");
}

TEST_F(KnownPromptsTest, FewestFieldsDecideWhichIsNearest) {
  prompts_.Learn(Published(Spec("int4", "another"), {kProbe}));  // differs in two
  v1::MatchReply reply = Missed(v1::MISS_CAUSE_UNKNOWN);
  prompts_.Label(call_, reply);
  ASSERT_EQ(reply.known_as_size(), 3);
  EXPECT_EQ(reply.known_as(2).kv_dtype(), "int4");
}

TEST_F(KnownPromptsTest, WhatHasABetterCauseOrBeginsLaterOrHasNoProbeStaysAsItIs) {
  for (const v1::MissCause cause : {v1::MISS_CAUSE_EVICTED, v1::MISS_CAUSE_NOT_YET, v1::MISS_CAUSE_NODE_LOST}) {
    v1::MatchReply reply = Missed(cause);
    prompts_.Label(call_, reply);
    EXPECT_EQ(reply.misses(0).cause(), cause);
  }
  v1::MatchReply later = Missed(v1::MISS_CAUSE_COLD, 2);
  prompts_.Label(call_, later);
  EXPECT_EQ(later.misses(0).cause(), v1::MISS_CAUSE_COLD);
  call_.probe.reset();
  v1::MatchReply without = Missed(v1::MISS_CAUSE_COLD);
  prompts_.Label(call_, without);
  EXPECT_EQ(without.misses(0).cause(), v1::MISS_CAUSE_COLD);
}

TEST_F(KnownPromptsTest, ItsOwnNamespaceIsNoOther) {
  call_.space = FingerprintOf(Spec("bf16"), "group");
  KnownPrompts prompts;
  prompts.Learn(Published(Spec("bf16"), {kProbe}));
  EXPECT_TRUE(prompts.FindElsewhere(call_.space, kProbe).empty());
}

TEST(KnownPromptsBoundsTest, TheOldestPromptsOfABucketAreForgotten) {
  KnownPrompts prompts(1);  // one bucket
  std::vector<Probe> probes;
  for (uint64_t i = 0; i < 10; ++i) probes.push_back({{.low = i, .high = i}});
  prompts.Learn(Published(Spec("bf16"), probes));
  const NamespaceFingerprint other = FingerprintOf(Spec("fp8"), "group");
  EXPECT_TRUE(prompts.FindElsewhere(other, probes[0]).empty());
  EXPECT_EQ(prompts.FindElsewhere(other, probes[9]).size(), 1u);
}

}  // namespace
}  // namespace stem
