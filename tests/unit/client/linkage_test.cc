// What an engine must install to link the client: neither UCX nor RocksDB. And the example that README shows works.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/support/fake_node.h"
#include "tests/support/temp_directory.h"

namespace stem::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string OutputOf(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "";
  std::string output;
  char line[512];
  while (std::fgets(line, sizeof(line), pipe) != nullptr) output += line;
  pclose(pipe);
  return output;
}

TEST(LinkageTest, ClientNeedsNeitherUcxNorRocksDb) {
  const std::string needed = OutputOf("readelf -d " STEM_EXAMPLE);
  ASSERT_THAT(needed, HasSubstr("libgrpc++"));  // readelf did run
  EXPECT_THAT(needed, Not(HasSubstr("libucp")));
  EXPECT_THAT(needed, Not(HasSubstr("libucs")));
  EXPECT_THAT(needed, Not(HasSubstr("librocksdb")));
}

TEST(LinkageTest, ExamplePublishesThenLoads) {
  TempDirectory directory;
  FakeNode node(directory.path(), {.spec = SmallSpec(64 << 10)});
  const std::string command = absl::StrCat(STEM_EXAMPLE, " ", node.target());
  EXPECT_EQ(OutputOf(command), "6 blocks: 0 loaded, 6 computed, 6 published\n");
  EXPECT_EQ(OutputOf(command), "6 blocks: 6 loaded, 0 computed, 0 published\n");
}

}  // namespace
}  // namespace stem::testing
