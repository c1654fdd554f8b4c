// What stem-directory says when it is started wrongly: one line, and the exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"

namespace stem {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Ended {
  int code = -1;
  std::string text;  // both streams
};

class DirectoryCliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_);
    std::ofstream(Path("secret")) << std::string(32, 's');
    std::filesystem::permissions(Path("secret"), std::filesystem::perms::owner_read);
  }
  ~DirectoryCliTest() override { std::filesystem::remove_all(dir_); }

  std::string Path(const std::string& name) const { return dir_ / name; }
  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(Path(name)) << text;
    return Path(name);
  }
  static Ended Run(const std::string& arguments) {
    Ended ended;
    FILE* pipe = popen(absl::StrCat(STEM_DIRECTORY_BINARY, " ", arguments, " 2>&1").c_str(), "r");
    char chunk[4096];
    while (const size_t bytes = fread(chunk, 1, sizeof(chunk), pipe)) ended.text.append(chunk, bytes);
    const int status = pclose(pipe);
    ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return ended;
  }
  void ExpectOneLine(const std::string& arguments, int code, const std::string& words) {
    const Ended ended = Run(arguments);
    EXPECT_EQ(ended.code, code) << ended.text;
    EXPECT_THAT(ended.text, StartsWith("stem-directory: "));
    EXPECT_THAT(ended.text, HasSubstr(words));
    EXPECT_EQ(ended.text.find('\n'), ended.text.size() - 1) << ended.text;
  }
  std::string Good() const {
    return absl::StrCat("--listen 127.0.0.1:0 --http 127.0.0.1:0 --log-level error --secret-file ", Path("secret"));
  }

  const std::filesystem::path dir_ = std::filesystem::temp_directory_path() / absl::StrCat("stem_cli_", getpid());
};

TEST_F(DirectoryCliTest, WrongFlagsAndValuesExitWithTwo) {
  ExpectOneLine("--no-such-flag", 2, "unknown argument '--no-such-flag'; see --help");
  ExpectOneLine("", 2, "--secret-file is not set");
  ExpectOneLine(Good() + " --heartbeat-ms 3", 2, "--heartbeat-ms: 3 is out of range; it must be 10 to 10000");
  ExpectOneLine(Good() + " --stale-ms-max soon", 2, "--stale-ms-max: 'soon' is not a number");
  ExpectOneLine(Good() + " --stale-ms-max 100 --heartbeat-ms 200", 2, "--stale-ms-max: 100 is below --heartbeat-ms, 200");
  ExpectOneLine(Good() + " --log-format xml", 2, "--log-format: 'xml' is not a log format; use text or json");
  ExpectOneLine("--listen nowhere --secret-file " + Path("secret"), 2, "--listen: 'nowhere' is not an address");
  ExpectOneLine("--http 0.0.0.0:0 --secret-file " + Path("secret"), 2, "--http: '0.0.0.0:0' can be reached from other hosts");
  ExpectOneLine("--secret-file " + Write("short", "abc"), 2, "has 3 bytes; it must have 32");
  ExpectOneLine(Good() + " --admin --console false", 2, "--admin: orders are given in the console, and --console is false");
  ExpectOneLine(Good() + " --etcd nowhere", 2, "--etcd: 'nowhere' is not an endpoint; use e.g. 127.0.0.1:2379");
  ExpectOneLine("--log-level error --insecure-allow-remote --listen 0.0.0.0:0 --etcd 127.0.0.1:1 --secret-file " + Path("secret"), 2,
                "--listen: '0.0.0.0:0' is every address");
}

TEST_F(DirectoryCliTest, WrongConfigFilesExitWithTwo) {
  ExpectOneLine("--config " + Write("a.toml", "listten = \"127.0.0.1:0\"\n"), 2, "unknown key 'listten'");
  ExpectOneLine("--config " + Write("b.toml", "heartbeat-ms = \"x\"\n"), 2, "--heartbeat-ms: 'x' is not a number");
  ExpectOneLine("--config " + Path("absent.toml"), 2, "absent.toml");
}

TEST_F(DirectoryCliTest, CheckConfigSaysOkOrWhatIsWrong) {
  const Ended good = Run(absl::StrCat("--check-config --config ", Write("c.toml", absl::StrCat(
      "listen = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nghosts-max = 10\nsecret-file = \"", Path("secret"), "\"\n"))));
  EXPECT_EQ(good.code, 0) << good.text;
  EXPECT_EQ(good.text, "ok\n");
  ExpectOneLine("--check-config --secret-file " + Path("absent"), 1, "is not a readable file");
}

TEST_F(DirectoryCliTest, ExampleConfigIsRight) {
  std::ifstream file(STEM_EXAMPLE_CONFIG);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  ASSERT_FALSE(text.empty());
  text = absl::StrReplaceAll(text, {{"/etc/stemcache/secret", Path("secret")}});
  const Ended ended = Run("--check-config --config " + Write("example.toml", text));
  EXPECT_EQ(ended.text, "ok\n");
}

TEST_F(DirectoryCliTest, RunsUntilToldToStopAndItsPortsAreTakenMeanwhile) {
  const std::string ready = Path("ready.json");
  const pid_t child = fork();
  if (child == 0) {
    execl(STEM_DIRECTORY_BINARY, "stem-directory", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "error",
          "--admin", "--secret-file", Path("secret").c_str(), "--ready-file", ready.c_str(), nullptr);
    _exit(127);
  }
  while (!std::filesystem::exists(ready)) {
    ASSERT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "it ended before it was ready";
    absl::SleepFor(absl::Milliseconds(5));
  }
  const std::filesystem::path token = ready + ".token";
  EXPECT_EQ(std::filesystem::file_size(token), 33u);
  EXPECT_EQ(std::filesystem::status(token).permissions(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_write)
      << "who may read it may order";
  const auto ports = nlohmann::json::parse(std::ifstream(ready));
  const std::string listen = ports["listen"];
  const std::string http = ports["http"];
  const std::string secret = " --secret-file " + Path("secret");
  ExpectOneLine("--http 127.0.0.1:0 --listen " + listen + secret, 1, "cannot listen on " + listen + ": Address already in use");
  ExpectOneLine("--listen 127.0.0.1:0 --http " + http + secret, 1, "cannot listen on " + http + ": Address already in use");
  kill(child, SIGTERM);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(DirectoryCliTest, ReadyFileThatCannotBeWrittenIsNamed) {
  ExpectOneLine(Good() + " --ready-file /nonexistent/ready", 1, "cannot create /nonexistent/ready");
}

}  // namespace
}  // namespace stem
