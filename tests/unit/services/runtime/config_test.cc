#include "services/runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "services/runtime/listen.h"

namespace stem {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ParseBytes, ReadsEveryUnit) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64KiB"), 65536u);
  EXPECT_EQ(*ParseBytes("512MiB"), 512ULL << 20);
  EXPECT_EQ(*ParseBytes("1GiB"), 1ULL << 30);
  EXPECT_EQ(*ParseBytes("3TiB"), 3ULL << 40);
}

TEST(ParseBytes, RefusesWhatIsNotASize) {
  for (const char* text : {"", "12XB", "-1", " 1", "1 ", "+1", "1.5GiB", "GiB", "1GB", "99999999999TiB", "0x10"}) {
    EXPECT_EQ(ParseBytes(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseBytes("12XB").status().message(), "'12XB' is not a size; use e.g. 512MiB");
}

TEST(ParseBytes, ReadsBackWhatFormatBytesWrites) {
  for (uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{1023}, uint64_t{1024}, uint64_t{1536} << 20, ~uint64_t{0}}) {
    EXPECT_EQ(*ParseBytes(FormatBytes(bytes)), bytes);
  }
}

TEST(ParseDuration, ReadsEveryUnit) {
  EXPECT_EQ(*ParseDuration("0"), absl::ZeroDuration());
  EXPECT_EQ(*ParseDuration("250us"), absl::Microseconds(250));
  EXPECT_EQ(*ParseDuration("200ms"), absl::Milliseconds(200));
  EXPECT_EQ(*ParseDuration("2s"), absl::Seconds(2));
  EXPECT_EQ(*ParseDuration("5m"), absl::Minutes(5));
  EXPECT_EQ(*ParseDuration("1h"), absl::Hours(1));
}

TEST(ParseDuration, RefusesWhatIsNotADuration) {
  for (const char* text : {"", "5", "ms", "-1s", "1.5s", "1 s", "inf", "99999999999999999999h", "9223372036854775807h"}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

class CommandLineTest : public ::testing::Test {
 protected:
  CommandLineTest() : dir_(std::filesystem::temp_directory_path() / absl::StrCat("stem_config_", getpid())) {
    std::filesystem::create_directories(dir_);
    AddBytesOption(app_, "--dram", dram_, {.min = 1 << 20, .max = 1ULL << 40}, "arena bytes");
    AddDurationOption(app_, "--heartbeat", heartbeat_, {.min = absl::Milliseconds(1), .max = absl::Seconds(10)}, "every");
    AddCheckedOption(app_, "--listen", listen_, [](absl::string_view text) { return ParseHostPort(text).status(); }, "at");
    app_.add_flag("--insecure", insecure_, "no");
    app_.add_option("--count", count_, "how many");
  }
  ~CommandLineTest() override { std::filesystem::remove_all(dir_); }

  CommandLine Parse(std::vector<std::string> arguments) {
    std::vector<const char*> argv = {"/usr/bin/stem-node"};
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    return ParseCommandLine(app_, static_cast<int>(argv.size()), argv.data(), out_, err_);
  }
  std::string ConfigFile(const std::string& text) {
    const std::string path = dir_ / "node.toml";
    std::ofstream(path) << text;
    return path;
  }
  void ExpectUsageError(const std::string& line) {
    EXPECT_EQ(err_.str(), line + "\n");
    EXPECT_EQ(out_.str(), "");
  }

  std::filesystem::path dir_;
  CLI::App app_{"a node", "stem-node"};
  uint64_t dram_ = 512 << 20;
  absl::Duration heartbeat_ = absl::Milliseconds(100);
  std::string listen_ = "127.0.0.1:7400";
  bool insecure_ = false;
  uint32_t count_ = 0;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CommandLineTest, FlagsReachTheirTargets) {
  const CommandLine line = Parse({"--dram", "1GiB", "--heartbeat=50ms", "--listen", "127.0.0.1:0"});
  EXPECT_FALSE(line.exit_code.has_value()) << err_.str();
  EXPECT_FALSE(line.check_config);
  EXPECT_EQ(dram_, 1ULL << 30);
  EXPECT_EQ(heartbeat_, absl::Milliseconds(50));
  EXPECT_EQ(listen_, "127.0.0.1:0");
}

TEST_F(CommandLineTest, FileFillsWhatFlagsDoNotSay) {
  const std::string file = ConfigFile("# comment\ndram = \"64MiB\"\nheartbeat = \"1s\"\ninsecure = true\n");
  const CommandLine line = Parse({"--config", file, "--heartbeat", "2s", "--check-config"});
  EXPECT_FALSE(line.exit_code.has_value()) << err_.str();
  EXPECT_TRUE(line.check_config);
  EXPECT_EQ(dram_, 64ULL << 20);
  EXPECT_EQ(heartbeat_, absl::Seconds(2));
  EXPECT_TRUE(insecure_);
  EXPECT_EQ(listen_, "127.0.0.1:7400");
}

TEST_F(CommandLineTest, BadValueIsNamedInOneLine) {
  EXPECT_EQ(Parse({"--dram", "12XB"}).exit_code, 2);
  ExpectUsageError("stem-node: --dram: '12XB' is not a size; use e.g. 512MiB; see --help");
}

TEST_F(CommandLineTest, ValueOutOfRangeSaysTheRange) {
  EXPECT_EQ(Parse({"--dram", "4KiB"}).exit_code, 2);
  ExpectUsageError("stem-node: --dram: '4KiB' is out of range; it must be 1MiB to 1TiB; see --help");
}

TEST_F(CommandLineTest, NumberThatIsNoneIsNamed) {
  EXPECT_EQ(Parse({"--count", "-1"}).exit_code, 2);
  ExpectUsageError("stem-node: --count: '-1' is not a number that fits here; see --help");
}

TEST_F(CommandLineTest, BadAddressIsNamed) {
  EXPECT_EQ(Parse({"--listen", "nowhere"}).exit_code, 2);
  ExpectUsageError("stem-node: --listen: 'nowhere' is not an address; use e.g. 127.0.0.1:7400; see --help");
}

TEST_F(CommandLineTest, UnknownFlagIsNamed) {
  EXPECT_EQ(Parse({"--drum", "1GiB"}).exit_code, 2);
  ExpectUsageError("stem-node: unknown argument '--drum'; see --help");
}

TEST_F(CommandLineTest, MissingValueIsAUsageError) {
  EXPECT_EQ(Parse({"--dram"}).exit_code, 2);
  EXPECT_THAT(err_.str(), HasSubstr("--dram"));
}

TEST_F(CommandLineTest, UnknownKeyInFileIsNamed) {
  EXPECT_EQ(Parse({"--config", ConfigFile("drum = \"1GiB\"\n")}).exit_code, 2);
  EXPECT_THAT(err_.str(), StartsWith("stem-node: the config file has an unknown key 'drum'"));
}

TEST_F(CommandLineTest, BadValueInFileIsNamed) {
  EXPECT_EQ(Parse({"--config", ConfigFile("dram = \"12XB\"\n")}).exit_code, 2);
  EXPECT_THAT(err_.str(), StartsWith("stem-node: --dram: '12XB' is not a size"));
}

TEST_F(CommandLineTest, MissingFileIsNamed) {
  EXPECT_EQ(Parse({"--config", dir_ / "absent.toml"}).exit_code, 2);
  EXPECT_THAT(err_.str(), HasSubstr("absent.toml"));
  EXPECT_EQ(err_.str().find('\n'), err_.str().size() - 1);
}

TEST_F(CommandLineTest, FileThatIsNoTomlIsRefused) {
  EXPECT_EQ(Parse({"--config", ConfigFile("{\"dram\": 3}\n[[[\n")}).exit_code, 2);
  EXPECT_EQ(err_.str().find('\n'), err_.str().size() - 1) << err_.str();
}

TEST_F(CommandLineTest, HelpAndVersionEndWithZero) {
  EXPECT_EQ(Parse({"--version"}).exit_code, 0);
  EXPECT_THAT(out_.str(), StartsWith("stem-node 0."));
  EXPECT_EQ(err_.str(), "");
}

TEST_F(CommandLineTest, HelpShowsDefaults) {
  EXPECT_EQ(Parse({"--help"}).exit_code, 0);
  EXPECT_THAT(out_.str(), HasSubstr("512MiB"));
  EXPECT_THAT(out_.str(), HasSubstr("100ms"));
}

TEST(ReportFailure, UsageAndRuntimeErrorsDiffer) {
  std::ostringstream err;
  EXPECT_EQ(ReportFailure("stem-node", absl::OkStatus(), err), 0);
  EXPECT_EQ(err.str(), "");
  EXPECT_EQ(ReportFailure("stem-node", absl::InvalidArgumentError("bad\nvalue"), err), 2);
  EXPECT_EQ(ReportFailure("stem-node", absl::UnavailableError("disk full"), err), 1);
  EXPECT_EQ(err.str(), "stem-node: bad value\nstem-node: disk full\n");
}

}  // namespace
}  // namespace stem
