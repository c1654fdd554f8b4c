// The live view's lists and lines.
#include "services/ctl/top.h"

#include <cstdint>

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::testing::HasSubstr;
using ::testing::Not;

v1::HotStemsReply::Stem Stem(const std::string& key, double rate, double hit, const std::string& space = "0123456789abcdef") {
  v1::HotStemsReply::Stem stem;
  stem.set_namespace_fingerprint(space);
  stem.set_key(key);
  stem.set_model("llama");
  stem.set_tenant("team-a");
  stem.set_blocks(32);
  stem.set_block_tokens(16);
  stem.set_requests_per_minute(rate);
  stem.set_requests(10);
  stem.set_hit_fraction(hit);
  return stem;
}

TopView View(int stems) {
  Traffic traffic{.seconds = 10, .sum = {}};
  v1::NodeCounters& change = *traffic.sum.mutable_change();
  change.set_requests(50);
  change.set_tokens_asked(10'000);
  change.mutable_tokens_hit()->Resize(v1::Source_ARRAYSIZE, 0);
  change.set_tokens_hit(v1::SOURCE_LOCAL_DRAM, 4000);
  change.mutable_tokens_missed()->Resize(v1::MissCause_ARRAYSIZE, 0);
  change.set_tokens_missed(v1::MISS_CAUSE_COLD, 4000);
  change.set_tokens_missed(v1::MISS_CAUSE_EVICTED, 2000);
  v1::NodeCounters::Tenant* const tenant = change.add_tenants();
  tenant->set_tenant("team-a");
  tenant->set_tokens_asked(10'000);
  tenant->set_tokens_hit(4000);
  tenant->set_dram_bytes(1 << 30);
  tenant->set_dram_bytes_used(1 << 29);
  TopView view{.windows = {traffic, traffic, absl::UnavailableError("gone")}, .directory = v1::DirectoryStatusReply(), .nodes = {}, .stems = {}, .silent = {}};
  v1::DirectoryStatusReply::Node node;
  node.mutable_address()->set_node("node-1");
  node.set_state("live");
  node.set_health_percent(100);
  view.nodes.push_back({node, traffic});
  node.mutable_address()->set_node("node-2");
  node.set_state("lost");
  view.nodes.push_back({node, absl::NotFoundError("never heard")});
  v1::HotStemsReply reply;
  for (int i = 0; i < stems; ++i) *reply.add_stems() = Stem("key " + std::to_string(i), 1000 - i, 0.5);
  view.stems = MergeStems({{"node-1", &reply}}, SIZE_MAX);
  return view;
}

TEST(Top, LinesSayWhatIsAskedFirst) {
  const std::string text = ToText(LayOut(View(3), TopPage::kAll, 0, 0));
  EXPECT_THAT(text, HasSubstr("1 of 2 nodes live"));
  EXPECT_THAT(text, HasSubstr("now 40.0 %   5 min 40.0 %   1 h ?"));
  EXPECT_THAT(text, HasSubstr("5 requests/s"));
  EXPECT_THAT(text, HasSubstr("cold"));
  EXPECT_THAT(text, HasSubstr("evicted"));
  EXPECT_LT(text.find("cold"), text.find("evicted"));
  EXPECT_THAT(text, HasSubstr("team-a"));
  EXPECT_THAT(text, HasSubstr("50.0 % of 1.0 GiB"));
  EXPECT_THAT(text, HasSubstr("node-2"));
}

TEST(Top, AnyScreenIsFilledAndNotOverrun) {
  const TopView view = View(300);
  for (const auto& [width, height] : {std::pair<size_t, size_t>(80, 24), {200, 60}, {40, 10}, {1, 1}}) {
    for (const TopPage page : {TopPage::kAll, TopPage::kStems, TopPage::kMisses, TopPage::kTenants, TopPage::kNodes, TopPage::kPeers}) {
      const std::vector<TopLine> lines = LayOut(view, page, width, height);
      EXPECT_LE(lines.size(), height);
      for (const TopLine& line : lines) {
        size_t columns = 0;
        for (const TopSpan& span : line) columns += span.text.size();
        EXPECT_LE(columns, width);
      }
    }
  }
  const std::vector<TopLine> lines = LayOut(view, TopPage::kStems, 200, 60);
  EXPECT_EQ(lines.size(), 60u);
  EXPECT_THAT(ToText(lines), HasSubstr("more"));
  EXPECT_THAT(ToText(LayOut(view, TopPage::kAll, 120, 40)), HasSubstr("node-2"));  // stems do not push the rest out
}

TEST(Top, WhoIsSilentIsSaid) {
  TopView view = View(0);
  view.silent = {"node node-2: not to be reached"};
  EXPECT_THAT(ToText(LayOut(view, TopPage::kAll, 0, 0)), HasSubstr("node node-2: not to be reached"));
  const nlohmann::json json = view.ToJson();
  EXPECT_EQ(json["silent"][0], "node node-2: not to be reached");
  EXPECT_DOUBLE_EQ(json["traffic"]["10s"]["hit_rate"], 0.4);
  EXPECT_EQ(json["traffic"]["5m"]["misses"]["cold"], 4000);
  EXPECT_TRUE(json["traffic"]["1h"].contains("error"));
  EXPECT_EQ(json["nodes"].size(), 2u);
}

TEST(Top, ManySilentNodesLeaveRoomForTheRest) {
  TopView view = View(3);
  for (int i = 0; i < 40; ++i) view.silent.push_back("node-" + std::to_string(i) + " did not answer: gone");
  const std::vector<TopLine> lines = LayOut(view, TopPage::kAll, 80, 40);
  const std::string text = ToText(lines);
  EXPECT_THAT(text, HasSubstr("node-2 did not answer"));
  EXPECT_THAT(text, Not(HasSubstr("node-3 did not answer")));
  EXPECT_THAT(text, HasSubstr("and 37 more do not answer"));
  EXPECT_THAT(text, HasSubstr("hottest stems"));
  EXPECT_EQ(view.ToJson()["silent"].size(), 40u);
}

TEST(Top, ADrainedNodeDoesNotLookHealthy) {
  TopView view = View(0);
  view.nodes[0].status.set_draining(true);
  EXPECT_THAT(ToText(LayOut(view, TopPage::kNodes, 0, 0)), HasSubstr("draining"));
  view.nodes[0].status.set_state("lost");
  EXPECT_THAT(ToText(LayOut(view, TopPage::kNodes, 0, 0)), Not(HasSubstr("draining")));
}

TEST(Top, LinksAreRatedByWhatTheyReadBetweenTwoViews) {
  TopView before = View(0), after = View(0);
  const absl::Time began = absl::FromUnixSeconds(1000);
  const auto link = [](const std::string& peer, uint64_t incarnation, absl::Time asked, uint64_t bytes, uint64_t busy_us) {
    return TopView::Link{.node = "node-1", .incarnation = incarnation, .peer = peer, .asked = asked, .bytes = bytes, .busy_us = busy_us,
                         .bytes_per_second = std::nullopt, .busy_share = std::nullopt};
  };
  before.links = {link("node-2", 1, began, 1'000'000'000, 0), link("node-3", 1, began, 5'000, 0), link("node-4", 1, began, 50, 0)};
  after.links = {link("node-3", 1, began + absl::Seconds(2), 5'000, 0), link("node-2", 1, began + absl::Seconds(2), 4'000'000'000, 1'000'000),
                 link("node-4", 2, began + absl::Seconds(2), 40, 0), link("node-5", 1, began + absl::Seconds(2), 7, 0)};
  RateLinks(before, &after);
  EXPECT_EQ(after.links[0].peer, "node-2") << "the busiest first";
  EXPECT_DOUBLE_EQ(*after.links[0].bytes_per_second, 1.5e9);
  EXPECT_DOUBLE_EQ(*after.links[0].busy_share, 0.5);
  EXPECT_DOUBLE_EQ(*after.links[1].bytes_per_second, 0);
  EXPECT_FALSE(after.links[2].bytes_per_second.has_value()) << "another life of the node";
  EXPECT_FALSE(after.links[3].bytes_per_second.has_value());
  EXPECT_THAT(ToText(LayOut(after, TopPage::kPeers, 0, 0)), HasSubstr("1.5GB/s"));
  EXPECT_DOUBLE_EQ(after.ToJson()["links"][0]["bytes_per_second"], 1.5e9);
}

TEST(Top, WithoutADirectoryNothingLooksWell) {
  TopView view = View(0);
  view.directory = absl::UnavailableError("gone");
  view.nodes.clear();
  const std::string text = ToText(LayOut(view, TopPage::kAll, 0, 0));
  EXPECT_THAT(text, HasSubstr("no directory answers"));
  EXPECT_THAT(text, Not(HasSubstr("0 of 0 nodes live")));
}

TEST(Top, NumbersAreShort) {
  EXPECT_EQ(Short(0), "0");
  EXPECT_EQ(Short(5), "5");
  EXPECT_EQ(Short(0.25), "0.2");
  EXPECT_EQ(Short(1234), "1.2k");
  EXPECT_EQ(Short(999'999), "1.0M");
  EXPECT_EQ(Short(123'456'789), "123M");
  EXPECT_EQ(Bytes(0), "0 B");
  EXPECT_EQ(Bytes(1536), "1.5 KiB");
  EXPECT_EQ(Bytes(8.0 * (1 << 30)), "8.0 GiB");
}

}  // namespace
}  // namespace stem
