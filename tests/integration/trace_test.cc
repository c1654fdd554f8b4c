// One request's trace, from the engine's traceparent through two nodes and the directory to an SSD: received over OTLP/HTTP, every span under
// its parent. Nodes and directory are whole ones in this process, over real sockets. What was received is written to STEM_TRACE_BODIES,
// for tests/integration/otlp_bodies.py, which reads it with OpenTelemetry's own messages.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"
#include "tests/support/span_receiver.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Publish;
using ::stem::testing::Soon;
using ::testing::IsSupersetOf;

constexpr uint64_t kBlockBytes = 65536;
constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";
constexpr char kEngineSpan[] = "b7ad6b7169203331";

std::string TraceparentOf(bool sampled) { return absl::StrCat("00-", kTrace, "-", kEngineSpan, sampled ? "-01" : "-00"); }

// The spans of a trace, and how they nest.
class Tree {
 public:
  Tree(const std::vector<ReceivedSpan>& spans, const std::string& trace) {
    for (const ReceivedSpan& each : spans) {
      if (absl::BytesToHexString(each.span.trace_id()) == trace) spans_.push_back(each);
    }
    for (const ReceivedSpan& each : spans_) by_id_[each.span.span_id()] = &each;
  }
  Tree(const Tree&) = delete;

  const std::vector<ReceivedSpan>& spans() const { return spans_; }
  // "engine/acquire@node-1/lease@node-1/lease@node-0": names and instances from the engine's span down. "lost" for a parent that is missing.
  std::string PathOf(const ReceivedSpan& span) const {
    const std::string here = absl::StrCat("/", span.span.name(), "@", span.service == "stem-directory" ? "directory" : span.instance);
    const std::string& parent = span.span.parent_span_id();
    if (absl::BytesToHexString(parent) == kEngineSpan) return "engine" + here;
    const auto found = by_id_.find(parent);
    return (found == by_id_.end() ? "lost" : PathOf(*found->second)) + here;
  }
  std::multiset<std::string> Paths() const {
    std::multiset<std::string> paths;
    for (const ReceivedSpan& each : spans_) paths.insert(PathOf(each));
    return paths;
  }
  const ReceivedSpan* Find(const std::string& path) const {
    for (const ReceivedSpan& each : spans_) {
      if (PathOf(each) == path) return &each;
    }
    return nullptr;
  }

 private:
  std::vector<ReceivedSpan> spans_;
  std::map<std::string, const ReceivedSpan*> by_id_;
};

class TraceTest : public ::testing::Test {
 protected:
  void Start(TracingOptions tracing) {
    tracing.otlp = receiver_.url();
    cluster_ = std::make_unique<InProcessCluster>(InProcessCluster::Options{
        .nodes = 2, .dram_bytes = 1 << 20, .ssd_bytes = 64 << 20, .map_host_peers = false, .tracing = tracing});
    writer_ = cluster_->Connect(0, TestSpec(kBlockBytes));
    reader_ = cluster_->Connect(1, TestSpec(kBlockBytes));
  }
  // A chain of which node 0 has some on its SSD.
  std::vector<BlockKey> PublishSpilled() {
    const std::vector<BlockKey> keys = ChainOf(*writer_, 8);
    EXPECT_EQ(Publish(*writer_, keys, FillWithPosition), 8U);
    // Of others more than DRAM holds, several times.
    for (uint32_t other = 1; other <= 20; ++other) Publish(*writer_, ChainOf(*writer_, 4, other * 100'000), FillWithPosition);
    cluster_->Settle();
    return keys;
  }
  uint32_t Fetch(const std::vector<BlockKey>& keys, const std::string& traceparent, absl::Time deadline = Soon()) {
    const absl::StatusOr<Stem> stem = reader_->Acquire(keys, {.request = "r-17", .traceparent = traceparent}, deadline);
    EXPECT_TRUE(stem.ok()) << stem.status();
    if (!stem.ok()) return 0;
    std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
    return reader_->Load(*stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), deadline).blocks_loaded;
  }
  // Waits for a span of `trace` with this path.
  bool Arrived(const std::string& path, const std::string& trace = kTrace) {
    return receiver_.WaitFor([&](const auto& spans) { return Tree(spans, trace).Find(path) != nullptr; });
  }

  SpanReceiver receiver_;
  std::unique_ptr<InProcessCluster> cluster_;
  std::unique_ptr<CacheClient> writer_, reader_;
};

TEST_F(TraceTest, OneRequestThroughTwoNodesAndAnSsd) {
  Start({.sample = 0});
  const std::vector<BlockKey> keys = PublishSpilled();
  ASSERT_EQ(Fetch(keys, TraceparentOf(true)), 8U);
  ASSERT_TRUE(Arrived("engine/acquire@node-1/lease@node-1/lease@node-0"));
  ASSERT_TRUE(Arrived("engine/acquire@node-1/match@node-1/match@directory"));
  ASSERT_TRUE(Arrived("engine/acquire@node-1/prove@node-1"));
  const Tree tree(receiver_.spans(), kTrace);
  const std::string lease = "engine/acquire@node-1/lease@node-1/lease@node-0";
  EXPECT_THAT(tree.Paths(), IsSupersetOf({std::string("engine/acquire@node-1"), std::string("engine/acquire@node-1/match@node-1"),
                                          std::string("engine/acquire@node-1/match@node-1/match@directory"),
                                          std::string("engine/acquire@node-1/lease@node-1"), lease, lease + "/promote@node-0",
                                          lease + "/promote@node-0/read@node-0", lease + "/promote@node-0/prove@node-0",
                                          std::string("engine/acquire@node-1/read@node-1"), std::string("engine/acquire@node-1/prove@node-1")}));
  for (const std::string& path : tree.Paths()) EXPECT_EQ(path.find("lost"), std::string::npos) << path;

  const ReceivedSpan& acquire = *tree.Find("engine/acquire@node-1");
  EXPECT_EQ(acquire.Attribute("stemcache.keys"), "8");
  EXPECT_EQ(acquire.Attribute("stemcache.blocks"), "8");
  EXPECT_EQ(acquire.Attribute("stemcache.bytes"), absl::StrCat(8 * kBlockBytes));
  EXPECT_EQ(acquire.Attribute("stemcache.request"), "r-17");
  EXPECT_EQ(acquire.Attribute("stemcache.tenant"), "default");
  EXPECT_EQ(acquire.Attribute("stemcache.model"), "test-model");
  uint64_t read_bytes = 0;  // by one step a lease
  for (const ReceivedSpan& each : tree.spans()) {
    if (tree.PathOf(each) != "engine/acquire@node-1/read@node-1") continue;
    EXPECT_EQ(each.Attribute("stemcache.peer"), "node-0");
    read_bytes += std::stoull(each.Attribute("stemcache.bytes"));
  }
  EXPECT_EQ(read_bytes, 8 * kBlockBytes);
  const ReceivedSpan& promote = *tree.Find(lease + "/promote@node-0");
  EXPECT_EQ(promote.Attribute("stemcache.tier"), "ssd");
  EXPECT_GE(std::stoull(promote.Attribute("stemcache.blocks")), 1U);
  EXPECT_EQ(tree.Find(lease)->Attribute("stemcache.peer"), "node-1");
  // A part is within the whole, as one clock says.
  for (const ReceivedSpan& each : tree.spans()) {
    EXPECT_GE(each.span.start_time_unix_nano(), acquire.span.start_time_unix_nano()) << tree.PathOf(each);
    EXPECT_LE(each.span.start_time_unix_nano(), each.span.end_time_unix_nano()) << tree.PathOf(each);
  }

  std::filesystem::remove_all(STEM_TRACE_BODIES);
  std::filesystem::create_directories(STEM_TRACE_BODIES);
  const std::vector<std::string> bodies = receiver_.bodies();
  for (size_t i = 0; i < bodies.size(); ++i) std::ofstream(absl::StrCat(STEM_TRACE_BODIES, "/", i), std::ios::binary) << bodies[i];
}

TEST_F(TraceTest, APublishAndTheSpillThatMadeRoomForIt) {
  Start({.sample = 0});
  for (uint32_t chain = 0; chain < 8; ++chain) {
    const std::vector<BlockKey> keys = ChainOf(*writer_, 4, 1 + chain * 100'000);
    absl::StatusOr<Reservation> reservation = writer_->Reserve(keys, {.traceparent = TraceparentOf(true)}, Soon());
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    for (const WantedPayload& wanted : reservation->wanted()) FillWithPosition(wanted);
    ASSERT_TRUE(writer_->Commit(*std::move(reservation), Soon()).ok());
  }
  ASSERT_TRUE(Arrived("engine/publish@node-0/reserve@node-0"));
  ASSERT_TRUE(Arrived("engine/publish@node-0/commit@node-0"));
  ASSERT_TRUE(Arrived("engine/publish@node-0/commit@node-0/spill@node-0"));
  const Tree tree(receiver_.spans(), kTrace);
  EXPECT_EQ(tree.Find("engine/publish@node-0/commit@node-0")->Attribute("stemcache.bytes"), absl::StrCat(4 * kBlockBytes));
  EXPECT_EQ(tree.Find("engine/publish@node-0/commit@node-0/spill@node-0")->Attribute("stemcache.tier"), "ssd");
}

TEST_F(TraceTest, ASlowRequestThatWasNotSampledIsKeptHereAndAtItsPeers) {
  Start({.sample = 0, .slow = absl::Microseconds(1)});
  ASSERT_EQ(Publish(*writer_, ChainOf(*writer_, 4), FillWithPosition), 4U);
  cluster_->Settle();
  ASSERT_EQ(Fetch(ChainOf(*writer_, 4), TraceparentOf(false)), 4U);
  EXPECT_TRUE(Arrived("engine/acquire@node-1/lease@node-1/lease@node-0"));
}

TEST_F(TraceTest, AFailureThatWasNotSampledIsKept) {
  Start({.sample = 0, .slow = absl::ZeroDuration()});
  ASSERT_EQ(Publish(*writer_, ChainOf(*writer_, 4), FillWithPosition), 4U);
  cluster_->Settle();
  // Every byte of node 0's arena but the headers' place is spoilt: the proof fails.
  for (const auto& memory : cluster_->node(0).memories()) {
    const std::span<std::byte> bytes = memory->arena.bytes();
    for (size_t i = 0; i < bytes.size(); i += 4096) bytes[i + 4095] ^= std::byte{1};
  }
  EXPECT_EQ(Fetch(ChainOf(*writer_, 4), TraceparentOf(false)), 0U);
  ASSERT_TRUE(Arrived("engine/acquire@node-1/prove@node-1"));
  ASSERT_TRUE(Arrived("engine/acquire@node-1/lease@node-1/lease@node-0")) << "parked by the peer, and kept";
  const Tree tree(receiver_.spans(), kTrace);
  const ReceivedSpan& prove = *tree.Find("engine/acquire@node-1/prove@node-1");
  EXPECT_EQ(prove.span.status().code(), otel::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(prove.Attribute("stemcache.cause"), "integrity");
  EXPECT_EQ(tree.Find("engine/acquire@node-1")->Attribute("stemcache.cause"), "integrity");
}

TEST_F(TraceTest, WhatIsNeitherSampledNorSlowNorFailedIsNotKept) {
  Start({.sample = 0, .slow = absl::Hours(1)});
  ASSERT_EQ(Publish(*writer_, ChainOf(*writer_, 4), FillWithPosition), 4U);
  cluster_->Settle();
  ASSERT_EQ(Fetch(ChainOf(*writer_, 4), TraceparentOf(false)), 4U);
  ASSERT_EQ(Fetch(ChainOf(*writer_, 4), ""), 4U);
  ASSERT_EQ(Fetch(ChainOf(*writer_, 4), "garbage, which is nobody's error"), 4U);
  reader_.reset();
  writer_.reset();
  cluster_.reset();  // sends what there is
  EXPECT_TRUE(receiver_.spans().empty());
}

}  // namespace
}  // namespace stem
