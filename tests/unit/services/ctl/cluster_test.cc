#include "services/ctl/cluster.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Starts shell scripts in the place of the daemons: they find their flags, say that they are ready, and wait.
class ClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "stem-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    fs::create_directory(root_ + "/bin");
    Daemon("stem-directory", R"(echo '{"listen":"127.0.0.1:7400","http":"127.0.0.1:7401","pid":1}' > "$ready.part")");
    Daemon("stem-node",
           R"(echo '{"node":"n","incarnation":"ff","peer":"127.0.0.1:7500","http":"127.0.0.1:7501"}' > "$ready.part")");
  }
  void TearDown() override {
    ClusterDown(dir()).status().IgnoreError();
    fs::remove_all(root_);
  }

  std::string dir() const { return root_ + "/c"; }

  void Daemon(const std::string& name, const std::string& body) {
    const std::string path = root_ + "/bin/" + name;
    std::ofstream(path) << "#!/bin/sh\necho \"$0 $*\"\nwhile [ $# -gt 0 ]; do\n"
                        << "  [ \"$1\" = --ready-file ] && ready=$2\n  [ \"$1\" = --name ] && name=$2\n  shift\ndone\n"
                        << body << "\nmv \"$ready.part\" \"$ready\"\nexec sleep 600\n";
    ::chmod(path.c_str(), 0755);
  }

  ClusterUpOptions Options() const {
    ClusterUpOptions options;
    options.dir = dir();
    options.nodes = 2;
    options.ssd_bytes = 4ULL << 30;
    options.binaries = root_ + "/bin";
    return options;
  }

  std::string Log(const std::string& member) const {
    std::ifstream file(dir() + "/logs/" + member + ".log");
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  std::string root_;
};

TEST_F(ClusterTest, UpStartsAllWithTheirFlagsAndDownEndsThem) {
  const auto state = ClusterUp(Options());
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_EQ(state->nodes.size(), 2u);
  EXPECT_EQ(state->directory.listen, "127.0.0.1:7400");
  EXPECT_EQ(state->nodes[0].listen, "127.0.0.1:7500");
  EXPECT_TRUE(IsRunning(state->directory.process));
  EXPECT_THAT(Log("node-2"), AllOf(HasSubstr("--name node-2"), HasSubstr("--directory 127.0.0.1:7400"),
                                   HasSubstr("--dram 512MiB"), HasSubstr("--ssd 4GiB"), HasSubstr("/node-2/ssd")));
  struct stat secret;
  ASSERT_EQ(::stat(state->secret_path().c_str(), &secret), 0);
  EXPECT_EQ(secret.st_mode & 0777, 0600u);
  EXPECT_EQ(secret.st_size, 32);

  const auto down = ClusterDown(dir());
  ASSERT_TRUE(down.ok()) << down.status();
  EXPECT_EQ(down->stopped, 3u);
  EXPECT_EQ(down->killed, 0u);
  for (const ClusterMember& node : state->nodes) EXPECT_FALSE(IsRunning(node.process));
  const auto again = ClusterDown(dir());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->not_running, 3u);
}

TEST_F(ClusterTest, NoSsdTierMeansNoSsdFlags) {
  ClusterUpOptions options = Options();
  options.ssd_bytes = 0;
  ASSERT_TRUE(ClusterUp(options).ok());
  EXPECT_THAT(Log("node-1"), Not(HasSubstr("--ssd")));
}

TEST_F(ClusterTest, ASecondUpIsRefusedAndChangesNothing) {
  const auto first = ClusterUp(Options());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = ClusterUp(Options());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("cluster down --dir"));
  EXPECT_TRUE(IsRunning(first->nodes[0].process));
}

TEST_F(ClusterTest, FailedStartTellsTheProcessesOwnWordsAndStopsTheRest) {
  Daemon("stem-node", "[ \"$name\" = node-2 ] && { echo 'stem-node: no memory left' >&2; exit 1; }\n"
                      "echo '{\"peer\":\"x\"}' > \"$ready.part\"");
  const auto state = ClusterUp(Options());
  EXPECT_EQ(state.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(state.status().message()),
              AllOf(HasSubstr("node-2"), HasSubstr("stem-node: no memory left")));
  const auto left = ReadClusterState(dir());
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_FALSE(IsRunning(left->directory.process));
  EXPECT_FALSE(IsRunning(left->nodes[0].process));
}

TEST_F(ClusterTest, ResumeStartsOnlyWhatIsMissing) {
  const auto state = ClusterUp(Options());
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_TRUE(Signal(state->nodes[1].process, SIGKILL).ok());
  ASSERT_TRUE(WaitForEnd(state->nodes[1].process, absl::Seconds(30)));
  const auto resumed = ClusterResume(dir(), root_ + "/bin");
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_EQ(resumed->nodes[0].process, state->nodes[0].process);
  EXPECT_NE(resumed->nodes[1].process, state->nodes[1].process);
  EXPECT_TRUE(IsRunning(resumed->nodes[1].process));
  EXPECT_EQ(resumed->dram_bytes, state->dram_bytes);
}

TEST_F(ClusterTest, ResumedDirectoryListensWhereItDid) {
  const auto state = ClusterUp(Options());
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_THAT(Log("directory"), HasSubstr("--listen 127.0.0.1:0"));
  ASSERT_TRUE(Stop(state->directory.process, absl::Seconds(30)).ok());
  ASSERT_TRUE(ClusterResume(dir(), root_ + "/bin").ok());
  EXPECT_THAT(Log("directory"), HasSubstr("--listen 127.0.0.1:7400"));
}

TEST_F(ClusterTest, SecretSurvivesDownAndUp) {
  ASSERT_TRUE(ClusterUp(Options()).ok());
  const auto read = [&] {
    std::ifstream file(dir() + "/secret");
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string before = read();
  ASSERT_TRUE(ClusterDown(dir()).ok());
  ASSERT_TRUE(ClusterUp(Options()).ok());
  EXPECT_EQ(read(), before);
}

TEST_F(ClusterTest, DirThatIsTooLongForASocketIsNamed) {
  ClusterUpOptions options = Options();
  options.dir = root_ + "/" + std::string(90, 'x');
  const auto state = ClusterUp(options);
  EXPECT_EQ(state.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(state.status().message()), AllOf(HasSubstr("too long"), HasSubstr("107")));
}

TEST_F(ClusterTest, FileThatUpDidNotWriteIsRefused) {
  fs::create_directory(dir());
  std::ofstream(dir() + "/cluster.json") << "{\"nodes\": 3}";
  EXPECT_EQ(ClusterDown(dir()).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ClusterDown(root_ + "/none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace stem
