// The fleet's counters over time: restarts, silence, resolutions, and what it costs for a thousand nodes.
#include "services/directory/fleet_history.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

v1::Hello HelloOf(const std::string& node, uint64_t incarnation, uint64_t uptime_ms = 0) {
  v1::Hello hello;
  hello.mutable_node()->set_node(node);
  hello.mutable_node()->set_incarnation(incarnation);
  hello.set_dram_bytes(1000);
  hello.set_uptime_ms(uptime_ms);
  return hello;
}

v1::Heartbeat BeatOf(uint64_t asked, uint64_t hit, const std::string& tenant = "t") {
  v1::Heartbeat beat;
  beat.set_dram_bytes_used(400);
  v1::NodeCounters& counters = *beat.mutable_counters();
  counters.set_requests(asked / 10);
  counters.set_tokens_asked(asked);
  counters.mutable_tokens_hit()->Resize(v1::Source_ARRAYSIZE, 0);
  counters.mutable_tokens_missed()->Resize(v1::MissCause_ARRAYSIZE, 0);
  counters.set_tokens_hit(v1::SOURCE_LOCAL_DRAM, hit);
  counters.set_tokens_missed(v1::MISS_CAUSE_COLD, asked - hit);
  v1::NodeCounters::Tenant* const tenants = counters.add_tenants();
  tenants->set_tenant(tenant);
  tenants->set_tokens_asked(asked);
  tenants->set_tokens_hit(hit);
  tenants->set_dram_bytes(1000);
  tenants->set_dram_bytes_used(400);
  return beat;
}

v1::HistoryReply Read(FleetHistory& history, uint32_t seconds, absl::Time now, const std::string& node = "", uint32_t points_max = 2000) {
  v1::HistoryRequest request;
  request.set_seconds(seconds);
  request.set_points_max(points_max);
  request.set_node(node);
  absl::StatusOr<v1::HistoryReply> reply = history.Read(request, now, now);
  EXPECT_TRUE(reply.ok()) << reply.status();
  return reply.ok() ? *reply : v1::HistoryReply();
}

uint64_t Asked(const v1::HistoryReply& reply) {
  uint64_t asked = 0;
  for (const auto& point : reply.points()) asked += point.change().tokens_asked();
  return asked;
}

TEST(FleetHistory, StepsAddUpToWhatNodesCounted) {
  FleetHistory history(kStart);
  absl::Time now = kStart;
  for (uint64_t second = 1; second <= 100; ++second) {
    now = kStart + absl::Seconds(second);
    history.Hear(HelloOf("a", 1), BeatOf(100 * second, 40 * second), now);
    history.Hear(HelloOf("b", 2), BeatOf(10 * second, 10 * second), now);
  }
  const v1::HistoryReply fleet = Read(history, 3600, now);
  EXPECT_EQ(Asked(fleet), 11'000u);
  EXPECT_EQ(fleet.total().tokens_asked(), 11'000u);
  EXPECT_EQ(fleet.total().tokens_hit(v1::SOURCE_LOCAL_DRAM), 5'000u);
  const v1::HistoryReply last = Read(history, 10, now + absl::Milliseconds(500));
  EXPECT_EQ(Asked(last), 1'210u);  // ten whole seconds, and the growing one
  ASSERT_GT(last.points_size(), 5);
  const auto& point = last.points(5);
  EXPECT_EQ(point.step_ms(), 1000u);
  EXPECT_EQ(point.nodes_live(), 2u);
  EXPECT_EQ(point.dram_bytes(), 2000u);
  EXPECT_EQ(point.dram_bytes_used(), 800u);
  ASSERT_EQ(point.change().tenants_size(), 1);
  EXPECT_EQ(point.change().tenants(0).tokens_asked(), 110u);
  EXPECT_EQ(point.change().tenants(0).dram_bytes(), 2000u);
  EXPECT_EQ(Asked(Read(history, 3600, now, "b")), 1'000u);
}

TEST(FleetHistory, NewIncarnationCountsAnew) {
  FleetHistory history(kStart);
  history.Hear(HelloOf("a", 1), BeatOf(1000, 0), kStart + absl::Seconds(1));
  history.Hear(HelloOf("a", 2), BeatOf(300, 0), kStart + absl::Seconds(2));
  history.Hear(HelloOf("a", 2), BeatOf(500, 0), kStart + absl::Seconds(3));
  EXPECT_EQ(Read(history, 60, kStart + absl::Seconds(4)).total().tokens_asked(), 1500u);
  EXPECT_EQ(Asked(Read(history, 60, kStart + absl::Seconds(4), "a")), 1500u);
}

TEST(FleetHistory, WhatWasCountedBeforeThisDirectoryIsLeftOut) {
  FleetHistory history(kStart);
  history.Hear(HelloOf("old", 1, /*uptime_ms=*/3'600'000), BeatOf(1'000'000, 0), kStart + absl::Seconds(1));
  history.Hear(HelloOf("old", 1, 3'600'000), BeatOf(1'000'070, 0), kStart + absl::Seconds(2));
  EXPECT_EQ(Read(history, 60, kStart + absl::Seconds(3)).total().tokens_asked(), 70u);
}

TEST(FleetHistory, SilentNodesAreNotLiveAndTheirMemoryIsNotThere) {
  FleetHistory history(kStart);
  history.Hear(HelloOf("a", 1), BeatOf(10, 0), kStart + absl::Seconds(1));
  for (int second = 1; second <= 20; ++second) history.Hear(HelloOf("b", 2), BeatOf(10, 0), kStart + absl::Seconds(second));
  const v1::HistoryReply reply = Read(history, 60, kStart + absl::Seconds(20) + absl::Milliseconds(500));
  ASSERT_GT(reply.points_size(), 10);
  EXPECT_EQ(reply.points(2).nodes_live(), 2u);
  EXPECT_EQ(reply.points(reply.points_size() - 1).nodes_live(), 1u);
  EXPECT_EQ(reply.points(reply.points_size() - 1).dram_bytes(), 1000u);
}

TEST(FleetHistory, SecondsStayWhereTheyAreThoughThreadsWait) {
  FleetHistory history(kStart);
  history.Hear(HelloOf("a", 1), BeatOf(100, 0), kStart + absl::Seconds(1));
  history.Hear(HelloOf("a", 1), BeatOf(300, 0), kStart + absl::Seconds(2));
  v1::HistoryRequest request;
  request.set_seconds(60);
  request.set_points_max(100);
  const absl::Duration ahead = absl::Hours(1);
  const auto ends_at = [&](absl::Time now, absl::Time unix_now) {
    const absl::StatusOr<v1::HistoryReply> reply = history.Read(request, now, unix_now);
    EXPECT_EQ(reply->points_size(), 2);
    EXPECT_EQ(Asked(*reply), 300u);
    return absl::FromUnixMillis(static_cast<int64_t>(reply->points(0).unix_ms())) - kStart;
  };
  const absl::Time now = kStart + absl::Milliseconds(2500);
  EXPECT_EQ(ends_at(now, now + ahead), ahead + absl::Seconds(2));
  EXPECT_EQ(ends_at(now, now + ahead + absl::Milliseconds(300)), ahead + absl::Seconds(2));  // waited between the two clocks
  EXPECT_EQ(ends_at(now - absl::Seconds(1), now - absl::Seconds(1) + ahead), ahead + absl::Seconds(2));  // waited for its turn
  history.Hear(HelloOf("a", 1), BeatOf(300, 0), now - absl::Seconds(1));
  EXPECT_EQ(ends_at(now, now + ahead), ahead + absl::Seconds(2));
  EXPECT_EQ(ends_at(now, now + absl::Hours(2)), absl::Hours(2) + absl::Seconds(2));  // the host's clock was set
}

TEST(FleetHistory, NobodyKnowsANodeThatWasNeverHeard) {
  FleetHistory history(kStart);
  v1::HistoryRequest request;
  request.set_seconds(60);
  request.set_points_max(10);
  request.set_node("nobody");
  EXPECT_TRUE(absl::IsNotFound(history.Read(request, kStart, kStart).status()));
}

TEST(FleetHistory, DayAtAnyNumberOfPointsLosesNothing) {
  FleetHistory history(kStart);
  absl::Time now = kStart;
  for (uint64_t second = 1; second <= 86'400; ++second) {
    now = kStart + absl::Seconds(second);
    history.Hear(HelloOf("a", 1), BeatOf(100 * second, 40 * second), now);
  }
  for (const uint32_t points_max : {1u, 2u, 7u, 50u, 720u, 2000u}) {
    const v1::HistoryReply day = Read(history, 86'400, now, "", points_max);
    EXPECT_LE(static_cast<uint32_t>(day.points_size()), points_max);
    EXPECT_NEAR(static_cast<double>(Asked(day)), 8'640'000.0, 100 * 240) << points_max;  // the first step may be forgotten
    uint64_t length_ms = 0;
    for (const auto& point : day.points()) length_ms += point.step_ms();
    EXPECT_NEAR(static_cast<double>(length_ms), 86'400'000.0, 240'000) << points_max;
    const v1::HistoryReply minutes = Read(history, 300, now, "", points_max);
    EXPECT_LE(static_cast<uint32_t>(minutes.points_size()), points_max);
    EXPECT_NEAR(static_cast<double>(Asked(minutes)), 30'000.0, 200) << points_max;
  }
}

TEST(FleetHistory, ThousandBusyNodesStayWithinTheirMemory) {
  FleetHistory history(kStart);
  constexpr size_t kNodes = 100;  // of kNodesMax; each costs the same
  v1::Heartbeat beat = BeatOf(0, 0);
  for (uint64_t minute = 1; minute <= 1440; ++minute) {
    v1::NodeCounters& counters = *beat.mutable_counters();
    counters.set_tokens_asked(minute * 50'000'000);
    for (int i = 1; i < counters.tokens_hit_size(); ++i) counters.set_tokens_hit(i, minute * 9'000'000);
    for (int i = 1; i < counters.tokens_missed_size(); ++i) counters.set_tokens_missed(i, minute * 1'000'000);
    counters.mutable_bytes()->Resize(v1::BytePath_ARRAYSIZE, 0);
    for (int i = 1; i < counters.bytes_size(); ++i) counters.set_bytes(i, minute * 100'000'000'000);
    counters.set_blocks_published(minute * 100'000);
    const int seconds = minute > 1420 ? 60 : 1;  // the fine steps fill at the end
    for (int second = 0; second < seconds; ++second) {
      for (size_t node = 0; node < kNodes; ++node) {
        history.Hear(HelloOf(absl::StrCat("node-", node), 1), beat, kStart + absl::Minutes(minute) + absl::Seconds(second));
      }
    }
  }
  EXPECT_LT(history.bytes() / kNodes, 200'000u);
}

}  // namespace
}  // namespace stem
