// The C interface, as programs compiled as C use it, against real nodes; and what the shared library shows of itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/support/in_process_cluster.h"

namespace stem {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What the command wrote, and how it ended.
std::pair<std::string, int> OutcomeOf(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {"", -1};
  std::string output;
  char line[1024];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) output += line;
  return {output, pclose(pipe)};
}

TEST(CApiTest, EveryCallWorksFromC) {
  InProcessCluster cluster({.nodes = 2});
  const auto [output, status] =
      OutcomeOf(absl::StrCat(STEM_C_CLIENT, " unix://", cluster.socket(0), " unix://", cluster.socket(1), " 2>&1"));
  EXPECT_EQ(status, 0) << output;
  EXPECT_THAT(output, HasSubstr("ok FetchesFromAnotherNode")) << "it ran to its end";
  EXPECT_THAT(output, Not(HasSubstr("FAILED")));
}

TEST(CApiTest, ExamplePublishesThenLoads) {
  InProcessCluster cluster({.nodes = 1});
  const std::string command = absl::StrCat(STEM_C_EXAMPLE, " unix://", cluster.socket(0), " 2>&1");
  EXPECT_EQ(OutcomeOf(command).first, "6 blocks: 0 loaded, 6 computed, 6 published\n");
  EXPECT_EQ(OutcomeOf(command).first, "6 blocks: 6 loaded, 0 computed, 0 published\n");
}

TEST(CApiTest, LibraryShowsOnlyItsFunctions) {
  // One line a defined dynamic symbol: address, type, name@@version. The version's own node is absolute (A).
  std::istringstream lines(OutcomeOf("nm -D --defined-only " STEM_C_LIBRARY).first);
  size_t functions = 0;
  for (std::string address, type, name; lines >> address >> type >> name;) {
    if (type == "A") continue;
    EXPECT_EQ(name.rfind("stem_", 0), 0u) << name;
    ++functions;
  }
  EXPECT_GT(functions, 30u) << "nm did run";
}

TEST(CApiTest, LibraryNeedsNeitherUcxNorRocksDb) {
  const std::string needed = OutcomeOf("readelf -d " STEM_C_LIBRARY).first;
  ASSERT_THAT(needed, HasSubstr("libgrpc++")) << "readelf did run";
  EXPECT_THAT(needed, HasSubstr("libstemcache.so.1"));
  EXPECT_THAT(needed, Not(HasSubstr("libucp")));
  EXPECT_THAT(needed, Not(HasSubstr("librocksdb")));
}

}  // namespace
}  // namespace stem
