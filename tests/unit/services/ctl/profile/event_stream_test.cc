#include "services/ctl/profile/event_stream.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace stem::profile {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Fed {
  Completion completion;
  bool broken = false;
  std::string why;
};

Fed Feed(const std::vector<std::string>& pieces, uint64_t asked = 0) {
  Fed fed;
  EventStream stream(&fed.completion, {}, absl::Now());
  for (const std::string& piece : pieces) stream.Feed(piece);
  stream.End(asked);
  fed.broken = stream.broken();
  fed.why = stream.why_broken();
  return fed;
}

TEST(EventStreamTest, TokensOfACompletionAreCounted) {
  const Fed fed = Feed({R"(data: {"choices":[{"text":"a","logprobs":{"tokens":["a"],"token_logprobs":[-0.5]}}]})", "\n\n",
                        "data: {\"choices\":[{\"text\":\"b\",\"finish_reason\":null}]}\r\n\r\n: a comment\n",
                        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
                        "data: [DONE]\n\n"},
                       2);
  EXPECT_FALSE(fed.broken);
  EXPECT_EQ(fed.completion.text, "ab");
  EXPECT_EQ(fed.completion.pieces, 2u);
  EXPECT_EQ(fed.completion.prompt_tokens, 7u);
  EXPECT_EQ(fed.completion.cached_tokens, 4u);
  EXPECT_THAT(fed.completion.tokens, ElementsAre("a"));
  EXPECT_THAT(fed.completion.logprobs, ElementsAre(-0.5));
  EXPECT_EQ(fed.completion.timing.gaps_s.size(), 1u);
  EXPECT_THAT(fed.completion.oddities, IsEmpty());
}

TEST(EventStreamTest, BytesMayArriveInAnyPieces) {
  const std::string whole = "data: {\"choices\":[{\"text\":\"x\"}]}\n\ndata: [DONE]\n\n";
  std::vector<std::string> letters;
  for (const char letter : whole) letters.emplace_back(1, letter);
  EXPECT_EQ(Feed(letters).completion.text, "x");
}

TEST(EventStreamTest, RoleOfAChatIsNoToken) {
  const Fed fed = Feed({"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n",
                        "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n", "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n",
                        "data: [DONE]\n"});
  EXPECT_EQ(fed.completion.pieces, 1u);
  EXPECT_EQ(fed.completion.text, "hi");
}

TEST(EventStreamTest, WhatDoesNotFitTogetherIsTold) {
  const Fed fed = Feed({"data: {\"choices\":[{\"text\":\"a\"}]}\ndata: {\"choices\":[{\"text\":\"b\"}]}\ndata: {\"choices\":[{\"text\":\"c\"}]}\n",
                        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"prompt_tokens_details\":{\"cached_tokens\":9}}}\n"},
                       2);
  EXPECT_THAT(fed.completion.oddities, Contains(HasSubstr("did not end with [DONE]")));
  EXPECT_THAT(fed.completion.oddities, Contains(HasSubstr("usage says 1 tokens, 3 pieces came")));
  EXPECT_THAT(fed.completion.oddities, Contains(HasSubstr("3 tokens for max_tokens 2")));
  EXPECT_THAT(fed.completion.oddities, Contains(HasSubstr("9 cached tokens of a prompt of 1")));
}

TEST(EventStreamTest, NoStreamOfCompletionsIsBroken) {
  EXPECT_THAT(Feed({"data: {\"choices\": [\n"}).why, HasSubstr("not JSON"));
  EXPECT_THAT(Feed({"data: {\"error\":{\"message\":\"out of memory\"}}\n"}).why, HasSubstr("out of memory"));
  EXPECT_THAT(Feed({"data: " + std::string(9 << 20, 'x')}).why, HasSubstr("MiB"));
  EXPECT_FALSE(Feed({"data: {\"choices\":[12]}\ndata: {\"choices\":{}}\ndata: {\"usage\":3}\n<html>\n"}).broken);
}

}  // namespace
}  // namespace stem::profile
