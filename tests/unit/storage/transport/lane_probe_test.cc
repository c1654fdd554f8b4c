#include "storage/transport/lane_probe.h"

#include <cstdio>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;

TEST(LaneProbeTest, LoopbackIsMeasured) {
  const auto probes = ProbeLanes({});
  ASSERT_TRUE(probes.ok()) << probes.status();
  ASSERT_EQ(probes->size(), 1u);
  const LaneProbe& lane = probes->front();
  ASSERT_TRUE(lane.status.ok()) << lane.status;
  std::puts(lane.ToString().c_str());
  EXPECT_EQ(lane.lane, "tcp/lo");
  EXPECT_GT(lane.latency, absl::ZeroDuration());
  EXPECT_GT(lane.bytes_per_second, 0);
  EXPECT_THAT(lane.memory_types, Contains("host"));
  EXPECT_TRUE(CheckLanes(*probes, 0).ok());
  EXPECT_TRUE(CheckLanes(*probes, 1).ok());
}

TEST(LaneProbeTest, ASlowLaneIsNamedWithItsFigureAndTheMinimum) {
  const std::vector<LaneProbe> probes = {
      {.lane = "rc_mlx5/mlx5_0:1", .latency = absl::Microseconds(2), .bytes_per_second = 24e9, .memory_types = {"host", "cuda"}},
      {.lane = "rc_mlx5/mlx5_1:1", .latency = absl::Microseconds(9), .bytes_per_second = 1.8e9, .memory_types = {"host"}}};
  EXPECT_TRUE(CheckLanes(probes, 1'000'000'000).ok());
  const absl::Status slow = CheckLanes(probes, 10'000'000'000);
  EXPECT_TRUE(absl::IsFailedPrecondition(slow)) << slow;
  EXPECT_THAT(std::string(slow.message()),
              AllOf(HasSubstr("rc_mlx5/mlx5_1:1: 9 us, 1.80 GB/s, host"), HasSubstr("want at least 10.00 GB/s")));
}

TEST(LaneProbeTest, ALaneThatFailsIsAnErrorOnlyWhereAMinimumIsAskedOrNoneWorks) {
  std::vector<LaneProbe> probes = {{.lane = "tcp/docker0", .status = absl::UnavailableError("cannot connect")}};
  EXPECT_THAT(std::string(CheckLanes(probes, 0).message()), HasSubstr("tcp/docker0: not measured (cannot connect)"));
  probes.push_back({.lane = "tcp/eth0", .bytes_per_second = 3e9});
  EXPECT_TRUE(CheckLanes(probes, 0).ok());
  EXPECT_THAT(std::string(CheckLanes(probes, 1).message()), HasSubstr("tcp/docker0"));
  EXPECT_FALSE(CheckLanes({}, 0).ok());
}

TEST(LaneProbeTest, DevicesBeyondLoopbackAreRefusedWhereOnlyLoopbackIsAllowed) {
  const absl::Status refused = ProbeLanes({.devices = "eth0"}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("devices is eth0"));
}

}  // namespace
}  // namespace stem
