#include "proto/validate_operator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

using ::testing::HasSubstr;

TEST(ValidateOperatorTest, DeparturesNameANamespaceAndKeys) {
  v1::DeparturesRequest request;
  request.set_namespace_fingerprint(std::string(16, 'f'));
  request.set_keys(std::string(32, 'k'));
  EXPECT_EQ(ValidateDepartures(request)->keys.size(), 2u);
  request.set_keys(std::string(33, 'k'));
  EXPECT_THAT(ValidateDepartures(request).status().message(), HasSubstr("keys is 33"));
  request.clear_namespace_fingerprint();
  EXPECT_THAT(ValidateDepartures(request).status().message(), HasSubstr("namespace_fingerprint is 0"));
}

TEST(ValidateOperatorTest, WhatNodesSayOfDeparturesIsOfKeysThatWereAsked) {
  v1::DeparturesReply reply;
  v1::DeparturesReply::Found* const found = reply.add_found();
  found->set_index(1);
  found->mutable_departure()->set_node("n");
  EXPECT_TRUE(ValidateDeparturesReply(reply, 2).ok());
  EXPECT_THAT(ValidateDeparturesReply(reply, 1).message(), HasSubstr("index is 1"));
  *reply.add_found() = *found;
  EXPECT_FALSE(ValidateDeparturesReply(reply, 2).ok()) << "twice";
  reply.mutable_found()->RemoveLast();
  found->mutable_departure()->clear_node();
  EXPECT_THAT(ValidateDeparturesReply(reply, 2).message(), HasSubstr("departure.node"));
}

TEST(ValidateOperatorTest, ExplainIsAMatchWithAProbe) {
  v1::ExplainRequest request;
  request.set_namespace_fingerprint(std::string(16, 'f'));
  request.set_keys(std::string(16, 'k'));
  EXPECT_FALSE(ValidateExplain(request)->probe.has_value());
  EXPECT_EQ(ValidateExplain(request)->parts.size(), 1u);
  request.set_probe(std::string(16, 'p'));
  EXPECT_EQ(ValidateExplain(request)->probe->bytes(), request.probe());
  request.set_probe(std::string(15, 'p'));
  EXPECT_THAT(ValidateExplain(request).status().message(), HasSubstr("probe is 15"));
}

TEST(ValidateOperatorTest, RequestsAreBounded) {
  v1::RequestsRequest request;
  request.set_recent(kRequestsRecentMax);
  EXPECT_TRUE(ValidateRequests(request).ok());
  request.set_recent(kRequestsRecentMax + 1);
  EXPECT_THAT(ValidateRequests(request).message(), HasSubstr("recent is 100001"));
  request.set_recent(1);
  request.set_request(std::string(129, 'r'));
  EXPECT_THAT(ValidateRequests(request).message(), HasSubstr("request is 129"));
}

TEST(ValidateOperatorTest, ProbesAreWholeAndFew) {
  v1::PublishedPrompts message;
  message.mutable_namespace_()->set_model("m");
  message.mutable_namespace_()->set_kv_dtype("bf16");
  message.mutable_namespace_()->set_layout("l");
  message.mutable_namespace_()->set_block_tokens(16);
  message.mutable_namespace_()->set_hash_scheme(v1::HASH_SCHEME_XXH3);
  v1::Part* const part = message.mutable_namespace_()->add_parts();
  part->set_group(v1::GROUP_KIND_FULL);
  part->set_layer_count(1);
  part->set_head_count(1);
  part->set_block_bytes(1);
  message.set_fingerprint(std::string(16, 'f'));
  EXPECT_TRUE(ValidatePublished(message)->probes.empty());
  message.set_probes(std::string(4096 * 16, 'p'));
  EXPECT_EQ(ValidatePublished(message)->probes.size(), 4096u);
  message.set_probes(std::string(4097 * 16, 'p'));
  EXPECT_FALSE(ValidatePublished(message).ok());
  message.set_probes("x");
  EXPECT_THAT(ValidatePublished(message).status().message(), HasSubstr("probes is 1"));
  v1::Heartbeat beat;
  *beat.add_published() = message;
  EXPECT_FALSE(ValidateHeartbeat(beat).ok());
}

}  // namespace
}  // namespace stem
