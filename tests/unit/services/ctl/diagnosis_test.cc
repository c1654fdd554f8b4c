// From numbers to advice.
#include "services/ctl/diagnosis.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::testing::HasSubstr;

constexpr uint64_t kGiB = 1ULL << 30;

// Rates at 1, 2, 4, 8, 16, 32 and 64 GiB.
v1::HitCurveReply Curve(std::initializer_list<double> rates, uint64_t dram_bytes, uint64_t ssd_bytes = 0) {
  v1::HitCurveReply curve;
  uint64_t bytes = kGiB;
  for (const double rate : rates) {
    v1::HitCurveReply::Point* const point = curve.add_points();
    point->set_bytes(bytes);
    point->set_hit_rate(rate);
    bytes *= 2;
  }
  curve.set_dram_bytes(dram_bytes);
  curve.set_ssd_bytes(ssd_bytes);
  curve.set_references(5000);
  curve.set_since_ms(1'800'000);
  curve.set_working_set_bytes(30 * kGiB);
  return curve;
}

DiagnosisInputs Inputs(v1::HitCurveReply curve) {
  DiagnosisInputs inputs{.hour = Traffic(), .directory = v1::DirectoryStatusReply(), .nodes = {}};
  inputs.nodes.push_back({.name = "node-1", .curve = std::move(curve), .namespaces = v1::NamespacesReply()});
  return inputs;
}

const Finding* Find(const Diagnosis& diagnosis, const std::string& topic, Finding::Kind kind) {
  for (const Finding& finding : diagnosis.findings) {
    if (finding.topic == topic && finding.kind == kind) return &finding;
  }
  return nullptr;
}

TEST(Diagnosis, SaysWhichSizeWouldPayAndHowMuch) {
  const Diagnosis diagnosis = Diagnose(Inputs(Curve({0.10, 0.20, 0.30, 0.40, 0.472, 0.475, 0.476}, 8 * kGiB)));
  const Finding* const finding = Find(diagnosis, "capacity", Finding::Kind::kTrouble);
  ASSERT_NE(finding, nullptr);
  EXPECT_THAT(finding->advice, HasSubstr("--dram 16GiB instead of 8GiB: +7.2 points"));
  EXPECT_THAT(finding->what, HasSubstr("+7.2 points"));
  EXPECT_NEAR(diagnosis.rooms[0].twice_dram_adds, 0.072, 1e-9);
  EXPECT_FALSE(diagnosis.healthy());
  EXPECT_THAT(diagnosis.ToText(), HasSubstr("--dram 16GiB"));
}

TEST(Diagnosis, AsksForAsMuchAsBringsNearlyAll) {
  const Diagnosis diagnosis = Diagnose(Inputs(Curve({0.10, 0.11, 0.12, 0.50, 0.50, 0.50}, 2 * kGiB)));
  EXPECT_THAT(Find(diagnosis, "capacity", Finding::Kind::kTrouble)->advice, HasSubstr("--dram 8GiB instead of 2GiB: +39.0 points"));
}

TEST(Diagnosis, WithAnSsdItIsTheSsdThatGrows) {
  const Diagnosis diagnosis = Diagnose(Inputs(Curve({0.10, 0.20, 0.30, 0.40, 0.60, 0.70, 0.71}, 2 * kGiB, 6 * kGiB)));
  EXPECT_THAT(Find(diagnosis, "capacity", Finding::Kind::kTrouble)->advice, HasSubstr("--ssd "));
  EXPECT_GT(diagnosis.rooms[0].twice_ssd_adds, 0.1);
  const Diagnosis whole = Diagnose(Inputs(Curve({0.10, 0.20, 0.40, 0.40, 0.40, 0.40}, kGiB, 16 * kGiB)));
  const Finding* const note = Find(whole, "capacity", Finding::Kind::kNote);
  ASSERT_NE(note, nullptr);
  EXPECT_THAT(note->what, HasSubstr("10.0 % of blocks come from the SSD"));
  EXPECT_TRUE(whole.healthy());
}

TEST(Diagnosis, EnoughRoomIsFine) {
  const Diagnosis diagnosis = Diagnose(Inputs(Curve({0.10, 0.40, 0.40, 0.40, 0.40}, 2 * kGiB)));
  EXPECT_NE(Find(diagnosis, "capacity", Finding::Kind::kFine), nullptr);
  EXPECT_TRUE(diagnosis.healthy());
}

TEST(Diagnosis, FewReferencesAreNoEstimate) {
  v1::HitCurveReply curve = Curve({0.10, 0.90}, kGiB);
  curve.set_references(10);
  EXPECT_THAT(Find(Diagnose(Inputs(curve)), "capacity", Finding::Kind::kFine)->what, HasSubstr("too few"));
}

TEST(Diagnosis, LikeNamedNamespacesThatDifferAreToldByField) {
  DiagnosisInputs inputs = Inputs(Curve({0.4, 0.4}, kGiB));
  v1::NamespaceRegistry::Entry entry;
  entry.set_group("team-a");
  v1::NamespaceSpec& spec = *entry.mutable_namespace_();
  spec.set_model("llama");
  spec.set_kv_dtype("bf16");
  spec.set_layout("opaque");
  spec.set_block_tokens(16);
  spec.set_hash_scheme(v1::HASH_SCHEME_XXH3);
  v1::Part& part = *spec.add_parts();
  part.set_group(v1::GROUP_KIND_FULL);
  part.set_layer_count(1);
  part.set_head_count(1);
  part.set_block_bytes(4096);
  *inputs.nodes[0].namespaces->add_entries() = entry;
  inputs.nodes.push_back({.name = "node-2", .curve = Curve({0.4, 0.4}, kGiB), .namespaces = v1::NamespacesReply()});
  *inputs.nodes[1].namespaces->add_entries() = entry;
  EXPECT_EQ(Find(Diagnose(inputs), "namespaces", Finding::Kind::kTrouble), nullptr);
  spec.set_kv_dtype("fp8_e4m3");
  *inputs.nodes[1].namespaces->add_entries() = entry;
  const Diagnosis diagnosis = Diagnose(inputs);
  const Finding* const finding = Find(diagnosis, "namespaces", Finding::Kind::kTrouble);
  ASSERT_NE(finding, nullptr);
  EXPECT_THAT(finding->what, testing::AllOf(HasSubstr("'llama'"), HasSubstr("kv_dtype (bf16, fp8_e4m3)"), HasSubstr("node-1, node-2 and on node-2")));
  entry.set_group("team-b");  // another tenant's is no matter
  inputs.nodes[1].namespaces->clear_entries();
  *inputs.nodes[1].namespaces->add_entries() = entry;
  EXPECT_EQ(Find(Diagnose(inputs), "namespaces", Finding::Kind::kTrouble), nullptr);
}

TEST(Diagnosis, CopiesOrphansHealthAndIndexAreTold) {
  DiagnosisInputs inputs = Inputs(Curve({0.4, 0.4}, kGiB));
  for (const char* const name : {"node-1", "node-2"}) {
    auto* const node = inputs.directory->add_nodes();
    node->mutable_address()->set_node(name);
    node->set_state("live");
    node->set_health_percent(100);
    node->set_blocks_dram(100);
    node->set_dram_bytes_used(100 * 4096);
  }
  inputs.directory->set_blocks(120);
  inputs.directory->mutable_nodes(1)->set_health_percent(40);
  inputs.directory->set_index_bytes_max(kGiB);
  inputs.directory->set_blocks_shed(7);
  inputs.hour->sum.mutable_change()->set_orphan_blocks(2);
  const Diagnosis diagnosis = Diagnose(inputs);
  EXPECT_EQ(diagnosis.duplicate_bytes, 80u * 4096);
  EXPECT_EQ(diagnosis.orphan_bytes, 2u * 4096);
  EXPECT_THAT(Find(diagnosis, "duplicates", Finding::Kind::kNote)->what, HasSubstr("40.0 %"));
  EXPECT_NE(Find(diagnosis, "orphans", Finding::Kind::kTrouble), nullptr);
  EXPECT_THAT(Find(diagnosis, "health", Finding::Kind::kTrouble)->what, HasSubstr("node-2"));
  EXPECT_THAT(Find(diagnosis, "index", Finding::Kind::kTrouble)->advice, HasSubstr("--index-bytes-max 2GiB instead of 1GiB"));
  EXPECT_EQ(diagnosis.findings.back().kind, Finding::Kind::kFine);  // troubles first
}

TEST(Diagnosis, MissesAreToldByShareWithWhatToDo) {
  DiagnosisInputs inputs = Inputs(Curve({0.4, 0.4}, kGiB));
  v1::NodeCounters& change = *inputs.hour->sum.mutable_change();
  change.set_tokens_asked(1000);
  change.mutable_tokens_missed()->Resize(v1::MissCause_ARRAYSIZE, 0);
  change.set_tokens_missed(v1::MISS_CAUSE_SPILL_REJECTED, 300);
  change.set_tokens_missed(v1::MISS_CAUSE_COLD, 200);
  change.set_tokens_missed(v1::MISS_CAUSE_NOT_YET, 20);
  change.set_tokens_missed(v1::MISS_CAUSE_INTEGRITY, 1);
  const Diagnosis diagnosis = Diagnose(inputs);
  EXPECT_THAT(Find(diagnosis, "misses", Finding::Kind::kNote)->advice, HasSubstr("--admission always"));
  EXPECT_THAT(Find(diagnosis, "misses", Finding::Kind::kTrouble)->what, HasSubstr("integrity"));
  EXPECT_THAT(Find(diagnosis, "misses", Finding::Kind::kFine)->what, HasSubstr("20.0 %"));
  ASSERT_EQ(diagnosis.misses.size(), 4u);
  EXPECT_EQ(diagnosis.misses[0].first, "spill_rejected");
  EXPECT_DOUBLE_EQ(diagnosis.ToJson()["misses"]["not_yet"], 0.02);
}

TEST(Diagnosis, ANodeThatDrainsIsNoted) {
  DiagnosisInputs inputs = Inputs(Curve({0.4, 0.4}, kGiB));
  auto* const node = inputs.directory->add_nodes();
  node->mutable_address()->set_node("node-1");
  node->set_state("live");
  node->set_health_percent(100);
  EXPECT_EQ(Find(Diagnose(inputs), "health", Finding::Kind::kNote), nullptr);
  node->set_draining(true);
  const Diagnosis diagnosis = Diagnose(inputs);
  const Finding* const finding = Find(diagnosis, "health", Finding::Kind::kNote);
  ASSERT_NE(finding, nullptr);
  EXPECT_THAT(finding->advice, HasSubstr("stemctl drain node-1 --resume"));
  EXPECT_TRUE(diagnosis.healthy());
}

TEST(Diagnosis, WithoutHistoryItIsSaidThatMissesAreNotKnown) {
  DiagnosisInputs inputs = Inputs(Curve({0.4, 0.4}, kGiB));
  inputs.hour = absl::DeadlineExceededError("too slow");
  const Diagnosis diagnosis = Diagnose(inputs);
  const Finding* const finding = Find(diagnosis, "misses", Finding::Kind::kTrouble);
  ASSERT_NE(finding, nullptr);
  EXPECT_THAT(finding->what, testing::AllOf(HasSubstr("no history"), HasSubstr("too slow")));
}

TEST(Diagnosis, RateIsReadBetweenPoints) {
  const v1::HitCurveReply curve = Curve({0.1, 0.2, 0.4}, kGiB);
  EXPECT_DOUBLE_EQ(RateAt(curve, static_cast<double>(kGiB)), 0.1);
  EXPECT_DOUBLE_EQ(RateAt(curve, 3.0 * kGiB), 0.3);
  EXPECT_DOUBLE_EQ(RateAt(curve, 99.0 * kGiB), 0.4);
  EXPECT_DOUBLE_EQ(RateAt(v1::HitCurveReply(), 5), 0);
}

}  // namespace
}  // namespace stem
