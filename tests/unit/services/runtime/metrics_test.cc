#include "services/runtime/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "httplib.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

const HostPort kAnyPort{.host = "127.0.0.1", .port = 0};

TEST(MetricsServer, ServesAPageFilledAtEachScrape) {
  int scrapes = 0;
  auto server = MetricsServer::Start({.listen = kAnyPort, .fill = [&](MetricsPage& page) {
                                        AddBuildInfo(page, "stem-test");
                                        page.Gauge("stemcache_test_level", "How high", ++scrapes);
                                      }});
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", (*server)->port());
  const auto first = client.Get("/metrics");
  ASSERT_TRUE(first);
  EXPECT_EQ(first->status, 200);
  EXPECT_THAT(first->body, HasSubstr("stemcache_build_info{process=\"stem-test\",version=\"0."));
  EXPECT_THAT(first->body, HasSubstr("stemcache_test_level 1"));
  EXPECT_THAT(client.Get("/metrics")->body, HasSubstr("stemcache_test_level 2"));
}

TEST(MetricsServer, HealthFollowsTheProcess) {
  auto server = MetricsServer::Start({.listen = kAnyPort, .fill = {}});
  ASSERT_TRUE(server.ok()) << server.status();
  httplib::Client client("127.0.0.1", (*server)->port());
  EXPECT_EQ(client.Get("/healthz")->status, 503);
  EXPECT_EQ(client.Get("/healthz")->body, "starting\n");
  (*server)->SetHealth(Health::kOk);
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  (*server)->SetHealth(Health::kDraining);
  EXPECT_EQ(client.Get("/healthz")->status, 503);
  EXPECT_EQ(client.Get("/nothing")->status, 404);
}

TEST(MetricsServer, PortInUseIsNamed) {
  auto first = MetricsServer::Start({.listen = kAnyPort, .fill = {}});
  ASSERT_TRUE(first.ok()) << first.status();
  const HostPort taken{.host = "127.0.0.1", .port = (*first)->port()};
  const auto second = MetricsServer::Start({.listen = taken, .fill = {}});
  EXPECT_EQ(second.status().message(), absl::StrCat("cannot listen on ", taken.ToString(), ": Address already in use"));
}

}  // namespace
}  // namespace stem
