// `stemctl bench block` on small sizes: every path is measured on real processes, and leaves nothing behind. How fast is not asked here.
#include "services/ctl/bench_block.h"

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

BenchBlockOptions Small() {
  BenchBlockOptions options;
  options.block_bytes = {256 << 10};
  options.stem_blocks = {1, 8};
  options.threads = {1, 2};
  options.working_set_bytes = 16 << 20;
  options.rounds = 1;
  options.binaries = STEM_BINARIES;
  return options;
}

TEST(BenchBlockTest, EveryPathIsMeasuredBesideItsLimits) {
  const TempDirectory own;
  setenv("TMPDIR", own.path().c_str(), 1);
  const auto rows = RunBenchBlock(Small());
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 20u);
  for (const BenchBlockRow& row : *rows) {
    EXPECT_GT(row.rate, 0) << NameOf(row.path);
    EXPECT_GT(row.stem_p99_us, 0);
    EXPECT_LE(row.stem_p50_us, row.stem_p99_us);
    EXPECT_GT(row.memcpy_rate, 0);
    EXPECT_GT(row.streamed_copy_rate, 0);
    EXPECT_EQ(row.tcp_rate > 0, row.path == BenchPath::kRemoteTcp);
    EXPECT_EQ(row.disk_rate > 0, row.path == BenchPath::kSsd);
    EXPECT_GT(row.echo_p50_us, 0);
    EXPECT_GT(row.ratio, 0);
  }
  const nlohmann::json json = ToJson(*rows);
  EXPECT_EQ(json[4]["path"], "local-get");
  EXPECT_EQ(json[0]["block_bytes"], 256 << 10);
  EXPECT_EQ(json[2]["stem_blocks"], 8);
  EXPECT_EQ(json[3]["threads"], 2);
  EXPECT_THAT(ToTable(*rows), HasSubstr("remote-tcp"));
  EXPECT_TRUE(std::filesystem::is_empty(own.path())) << "it leaves nothing behind";
}

TEST(BenchBlockTest, SizesThatDoNotFitAreNamed) {
  BenchBlockOptions options = Small();
  options.block_bytes = {32 << 20};
  EXPECT_THAT(std::string(RunBenchBlock(options).status().message()), HasSubstr("--sizes: 32MiB must be 4KiB to the working set's 16MiB"));
  options = Small();
  options.stem_blocks = {65};
  EXPECT_THAT(std::string(RunBenchBlock(options).status().message()), HasSubstr("--stem-blocks: 65 blocks of 256KiB"));
}

}  // namespace
}  // namespace stem
