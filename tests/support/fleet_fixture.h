// A real etcd and processes' views of it, for tests of the fleet.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/runtime/fleet.h"
#include "tests/support/etcd_process.h"
#include "tests/support/eventually.h"
#include "tests/support/log_lines.h"

namespace stem {

class FleetFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdProcess::Available()) GTEST_SKIP() << "no etcd at " << STEM_ETCD << "; install etcd-server";
    etcd_ = std::make_unique<EtcdProcess>();
  }

  FleetOptions Options() const { return {.etcd = {etcd_->endpoint()}, .prefix = "/t/c", .lease = absl::Seconds(1)}; }

  std::unique_ptr<FleetSource> Open(const FleetOptions& options, const std::vector<std::string>& seed = {}) {
    auto fleet = OpenFleet(options, seed, log_);
    EXPECT_TRUE(fleet.ok()) << fleet.status();
    return fleet.ok() ? *std::move(fleet) : nullptr;
  }
  std::unique_ptr<FleetSource> Open() { return Open(Options()); }

  static FleetMember Node(const std::string& name, uint64_t incarnation = 1) {
    return {.name = name, .incarnation = incarnation, .address = "127.0.0.1:7410", .host_id = "h"};
  }
  static FleetMember Directory(int i) {
    const std::string address = absl::StrCat("127.0.0.1:", 7400 + i);
    return {.name = address, .incarnation = 1, .address = address, .host_id = "h"};
  }
  static std::vector<std::string> Addresses(const FleetSource& fleet) {
    std::vector<std::string> addresses;
    const std::shared_ptr<const FleetSnapshot> snapshot = fleet.snapshot();  // a loop over a temporary's would outlive it
    for (const FleetMember& directory : snapshot->directories) addresses.push_back(directory.address);
    return addresses;
  }
  static bool Sees(const FleetSource& fleet, const std::string& node) { return fleet.snapshot()->nodes.count(node) > 0; }

  LogLines lines_;
  Logger log_{{.process = "test", .level = LogLevel::kDebug, .out = &lines_.stream()}};
  std::unique_ptr<EtcdProcess> etcd_;
};

}  // namespace stem
