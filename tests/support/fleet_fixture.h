// A real etcd and processes' views of it, for tests of the fleet.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <memory>
#include <ostream>
#include <streambuf>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/mutex.h"
#include "services/runtime/fleet.h"
#include "tests/support/etcd_process.h"
#include "tests/support/eventually.h"

namespace stem {

// Log lines that may be read while threads write on.
class LogLines : private std::streambuf {
 public:
  std::ostream& stream() { return stream_; }
  std::string text() const {
    MutexLock lock(mutex_);
    return text_;
  }
  size_t Count(const std::string& words) const {
    const std::string all = text();
    size_t count = 0;
    for (size_t at = all.find(words); at != all.npos; at = all.find(words, at + 1)) ++count;
    return count;
  }

 private:
  std::streamsize xsputn(const char* bytes, std::streamsize count) override {
    MutexLock lock(mutex_);
    text_.append(bytes, static_cast<size_t>(count));
    return count;
  }
  int overflow(int c) override {
    const char byte = static_cast<char>(c);
    return c == EOF ? 0 : static_cast<int>(xsputn(&byte, 1));
  }

  mutable Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
  std::ostream stream_{this};
};

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
