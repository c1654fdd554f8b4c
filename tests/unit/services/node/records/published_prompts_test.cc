#include "services/node/records/published_prompts.h"

#include <gtest/gtest.h>

#include "proto/validate.h"

namespace stem {
namespace {

Probe ProbeOf(uint64_t number) { return {{.low = number, .high = ~number}}; }

Space MakeSpace(const std::string& model) {
  Space space;
  space.spec = {.model = model, .kv_dtype = "bf16", .layout = "opaque", .block_tokens = 16, .parts = {{.id = 0, .block_bytes = 64}}};
  space.fingerprint = FingerprintOf(space.spec, "group");
  return space;
}

TEST(PublishedPromptsTest, AStreamIsToldEachNamespaceAndPromptOnce) {
  const Space a = MakeSpace("a"), b = MakeSpace("b");
  PublishedPrompts prompts;
  prompts.Add(a);
  prompts.Add(b);
  prompts.Remember(a, ProbeOf(1));
  prompts.Remember(a, ProbeOf(2));
  prompts.Remember(a, ProbeOf(1));
  PublishedPrompts::Told told;
  v1::Heartbeat first;
  prompts.Tell(&told, first);
  ASSERT_TRUE(ValidateHeartbeat(first).ok());
  ASSERT_EQ(first.published_size(), 2);
  const PublishedCall call = *ValidatePublished(first.published(0));
  EXPECT_EQ(call.spec, a.spec);
  EXPECT_EQ(call.space, a.fingerprint);
  EXPECT_EQ(call.probes, (std::vector<Probe>{ProbeOf(1), ProbeOf(2)}));
  EXPECT_TRUE(first.published(1).probes().empty());

  v1::Heartbeat quiet;
  prompts.Tell(&told, quiet);
  EXPECT_TRUE(quiet.published().empty());
  prompts.Remember(b, ProbeOf(1));
  prompts.Tell(&told, quiet);
  ASSERT_EQ(quiet.published_size(), 1);
  EXPECT_EQ(ValidatePublished(quiet.published(0))->space, b.fingerprint);
}

TEST(PublishedPromptsTest, OnlyTheLatestAreKeptAndManyGoInTurns) {
  const Space space = MakeSpace("a");
  PublishedPrompts prompts(PublishedPrompts::kPerHeartbeat + 1);
  prompts.Add(space);
  for (uint64_t i = 1; i <= PublishedPrompts::kPerHeartbeat + 3; ++i) prompts.Remember(space, ProbeOf(i));
  PublishedPrompts::Told told;
  v1::Heartbeat first, second;
  prompts.Tell(&told, first);
  prompts.Tell(&told, second);
  const PublishedCall call = *ValidatePublished(first.published(0));
  EXPECT_EQ(call.probes.size(), PublishedPrompts::kPerHeartbeat);
  EXPECT_EQ(call.probes.front(), ProbeOf(3));
  EXPECT_EQ(ValidatePublished(second.published(0))->probes, std::vector<Probe>{ProbeOf(PublishedPrompts::kPerHeartbeat + 3)});
}

}  // namespace
}  // namespace stem
