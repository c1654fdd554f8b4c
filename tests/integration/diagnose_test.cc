// `diagnose`, `status` and `top` of real clusters that have each kind of trouble.
#include <cstdlib>
#include <regex>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "services/ctl/diagnosis.h"
#include "services/ctl/status.h"
#include "services/ctl/top.h"
#include "storage/pool/slot.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 16384;
constexpr uint64_t kDramBytes = 4 << 20;  // some 240 slots

class DiagnoseTest : public ::testing::Test {
 protected:
  void Start(size_t nodes, uint64_t ssd_bytes = 0) {
    cluster_ = std::make_unique<InProcessCluster>(
        InProcessCluster::Options{.nodes = nodes, .dram_bytes = kDramBytes, .ssd_bytes = ssd_bytes, .map_host_peers = false});
    targets_ = {.nodes = cluster_->sockets(), .directories = {cluster_->directory_address()}, .secret_file = cluster_->secret_file()};
  }

  // Prompts first..first+count-1, 20 blocks each, asked and published as an engine does.
  static void Serve(CacheClient& client, uint32_t first, uint32_t count) {
    for (uint32_t prompt = first; prompt < first + count; ++prompt) {
      const std::vector<BlockKey> keys = testing::ChainOf(client, 20, 1 + prompt * 1'000'000);
      absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
      ASSERT_TRUE(stem.ok()) << stem.status();
      std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
      const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
      EXPECT_TRUE(client.Load(*stem, 0, destinations, Soon()).status.ok());
      testing::Publish(client, keys, FillWithPosition);
    }
  }

  // Once the directory has counted so many requests.
  Diagnosis After(uint64_t requests) {
    DiagnosisInputs inputs = AskDiagnosis(targets_);
    for (int i = 0; i < 200 && (!inputs.hour.ok() || inputs.hour->sum.change().requests() < requests); ++i) {
      absl::SleepFor(absl::Milliseconds(50));
      inputs = AskDiagnosis(targets_);
    }
    EXPECT_TRUE(inputs.hour.ok());
    EXPECT_GE(inputs.hour->sum.change().requests(), requests);
    return Diagnose(inputs);
  }

  static const Finding* Find(const Diagnosis& diagnosis, const std::string& topic, Finding::Kind kind) {
    for (const Finding& finding : diagnosis.findings) {
      if (finding.topic == topic && finding.kind == kind) return &finding;
    }
    return nullptr;
  }

  std::unique_ptr<InProcessCluster> cluster_;
  StatusTargets targets_;
};

TEST_F(DiagnoseTest, WorkingSetThatDoesNotFitIsToldWithTheSizeThatWould) {
  Start(1);
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  for (int round = 0; round < 6; ++round) Serve(*client, 0, 20);  // 400 blocks
  const Diagnosis diagnosis = After(120);
  const Finding* const capacity = Find(diagnosis, "capacity", Finding::Kind::kTrouble);
  ASSERT_NE(capacity, nullptr) << diagnosis.ToText();
  EXPECT_THAT(capacity->advice, ::testing::AllOf(HasSubstr("--dram 8MiB instead of 4MiB: +"), HasSubstr("--ssd 4MiB")));
  EXPECT_GT(diagnosis.rooms[0].twice_dram_adds, 0.5);
  EXPECT_GT(diagnosis.rooms[0].working_set_bytes, kDramBytes);
  ASSERT_FALSE(diagnosis.misses.empty());
  EXPECT_NE(std::find_if(diagnosis.misses.begin(), diagnosis.misses.end(), [](const auto& miss) { return miss.first == "evicted"; }),
            diagnosis.misses.end())
      << diagnosis.ToText();
  EXPECT_FALSE(diagnosis.healthy());
}

TEST_F(DiagnoseTest, AdviceComesTrue) {
  Start(1);
  double before = 0;
  {
    const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
    for (int round = 0; round < 6; ++round) Serve(*client, 0, 20);
    const Diagnosis diagnosis = After(120);
    before = diagnosis.rooms[0].hit_rate_now;
    EXPECT_THAT(Find(diagnosis, "capacity", Finding::Kind::kTrouble)->advice, HasSubstr("--dram 8MiB"));
  }
  cluster_ = std::make_unique<InProcessCluster>(InProcessCluster::Options{.nodes = 1, .dram_bytes = 8 << 20});
  targets_ = {.nodes = cluster_->sockets(), .directories = {cluster_->directory_address()}, .secret_file = cluster_->secret_file()};
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  for (int round = 0; round < 6; ++round) Serve(*client, 0, 20);
  const Diagnosis diagnosis = After(120);
  EXPECT_EQ(Find(diagnosis, "capacity", Finding::Kind::kTrouble), nullptr) << diagnosis.ToText();
  EXPECT_NEAR(diagnosis.rooms[0].hit_rate_now, 5.0 / 6, 0.02);
  EXPECT_GT(diagnosis.rooms[0].hit_rate_now, before);
}

TEST_F(DiagnoseTest, SecondCopiesAreCounted) {
  Start(2);
  const auto first = cluster_->Connect(0, TestSpec(kBlockBytes));
  const auto second = cluster_->Connect(1, TestSpec(kBlockBytes));
  Serve(*first, 0, 8);
  cluster_->Settle();
  Serve(*second, 0, 8);  // fetched, and copied, from there
  cluster_->Settle();
  const Diagnosis diagnosis = After(16);
  EXPECT_NE(Find(diagnosis, "duplicates", Finding::Kind::kNote), nullptr) << diagnosis.ToText();
  EXPECT_EQ(diagnosis.duplicate_bytes, 160 * SlotGeometry::For(kBlockBytes).slot_bytes);
  EXPECT_EQ(diagnosis.orphan_bytes, 0u);
}

TEST_F(DiagnoseTest, EnginesThatDifferInOneFieldAreToldWhichOne) {
  Start(2);
  const auto first = cluster_->Connect(0, TestSpec(kBlockBytes));
  NamespaceSpec other = TestSpec(kBlockBytes);
  other.kv_dtype = "fp16";
  const auto second = cluster_->Connect(1, other);
  Serve(*first, 0, 1);
  Serve(*second, 0, 1);
  const Diagnosis diagnosis = After(2);
  const Finding* const finding = Find(diagnosis, "namespaces", Finding::Kind::kTrouble);
  ASSERT_NE(finding, nullptr) << diagnosis.ToText();
  EXPECT_THAT(finding->what, HasSubstr("kv_dtype (bf16, fp16)"));
}

// Whatever metric an advice sends the operator to, a node exports it, once it has something to count.
TEST_F(DiagnoseTest, MetricsThatAdviceNamesAreExported) {
  Start(1);
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  Serve(*client, 0, 1);
  httplib::Client http("http://" + cluster_->node(0).http_address());
  const httplib::Result page = http.Get("/metrics");
  ASSERT_TRUE(page);
  DiagnosisInputs inputs{.hour = Traffic(), .directory = v1::DirectoryStatusReply(), .nodes = {}};
  inputs.directory->add_nodes()->set_state("live");  // and its health 0 %
  v1::NodeCounters& change = *inputs.hour->sum.mutable_change();
  change.set_tokens_asked(v1::MissCause_ARRAYSIZE);
  for (int cause = 0; cause < v1::MissCause_ARRAYSIZE; ++cause) change.add_tokens_missed(1);
  const std::string text = Diagnose(inputs).ToText();
  size_t named = 0;
  const std::regex metric("stemcache_[a-z_]+");
  for (std::sregex_iterator name(text.begin(), text.end(), metric); name != std::sregex_iterator(); ++name, ++named) {
    EXPECT_THAT(page->body, HasSubstr("# TYPE " + name->str() + " ")) << "advice names it";
  }
  EXPECT_GE(named, 3u) << text;
}

TEST_F(DiagnoseTest, LostNodeIsTrouble) {
  Start(2);
  {
    const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
    Serve(*client, 0, 1);
    EXPECT_GE(After(1).rooms.size(), 2u);
  }
  cluster_->StopNode(1);
  bool told = false;
  for (int i = 0; i < 200 && !told; ++i) {
    const Diagnosis diagnosis = Diagnose(AskDiagnosis(targets_));
    for (const Finding& finding : diagnosis.findings) told |= finding.topic == "health" && finding.what.find("node-1 is lost") != std::string::npos;
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_TRUE(told);
}

TEST_F(DiagnoseTest, StatusAndTopShowWhatClientsDid) {
  Start(2);
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  for (int round = 0; round < 4; ++round) Serve(*client, 0, 2);
  After(8);
  const ClusterStatus status = QueryStatus(targets_);
  ASSERT_TRUE(status.traffic.has_value());
  ASSERT_TRUE(status.traffic->hour.ok()) << status.traffic->hour.status();
  EXPECT_DOUBLE_EQ(status.traffic->hour->hit_rate(), 0.75);
  EXPECT_THAT(status.ToTable(), ::testing::AllOf(HasSubstr("1 h 75.0 %"), HasSubstr("100 %"), HasSubstr("lag")));
  EXPECT_DOUBLE_EQ(status.ToJson()["traffic_of"]["node-0"]["5m"]["hit_rate"], 0.75);
  EXPECT_EQ(status.ToJson()["traffic"]["1h"]["requests"], 8);
  const TopView view = AskTop(targets_);
  EXPECT_TRUE(view.silent.empty());
  ASSERT_EQ(view.stems.size(), 2u);
  EXPECT_EQ(view.stems[0].stem.requests(), 4u);
  EXPECT_EQ(view.nodes.size(), 2u);
  EXPECT_THAT(ToText(LayOut(view, TopPage::kAll, 0, 0)), ::testing::AllOf(HasSubstr("2 of 2 nodes live"), HasSubstr("test-model"), HasSubstr("cold")));
  StatusTargets wrong = targets_;
  wrong.nodes.push_back("/nowhere.sock");
  EXPECT_FALSE(AskTop(wrong).silent.empty());
}

}  // namespace
}  // namespace stem
