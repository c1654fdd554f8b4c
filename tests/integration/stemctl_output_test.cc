// What stemctl's operator commands do with their output and their exit codes, run as processes: on closed pipes, full disks, and with nobody to ask.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include <array>
#include <cstdio>
#include <string>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/eventually.h"
#include "tests/support/frozen_server.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::Soon;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kStemctl[] = STEM_BINARIES "/stemctl";
constexpr uint64_t kBlockBytes = 16384;

struct Ended {
  int code = -1;  // of the shell
  std::string out;
};

Ended Shell(const std::string& command) {
  Ended ended;
  std::FILE* const pipe = popen(absl::StrCat("bash -c '", command, "' 2>&1").c_str(), "r");
  if (pipe == nullptr) return ended;
  std::array<char, 4096> buffer;
  while (const size_t read = std::fread(buffer.data(), 1, buffer.size(), pipe)) ended.out.append(buffer.data(), read);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ended.code = WEXITSTATUS(status);
  return ended;
}

class StemctlOutputTest : public ::testing::Test {
 protected:
  void Start(size_t nodes = 1) {
    cluster_ = std::make_unique<InProcessCluster>(InProcessCluster::Options{.nodes = nodes});
    targets_ = absl::StrCat(" --directory ", cluster_->directory_address(), " --secret-file ", cluster_->secret_file());
  }
  void Serve(const std::string& request) {
    const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
    AcquireOptions options;
    options.request = request;
    ASSERT_TRUE(client->Acquire(testing::ChainOf(*client, 2), options, Soon()).ok());
    ASSERT_TRUE(Eventually([&] { return Shell(absl::StrCat(kStemctl, " tail --once", targets_)).out.find(request) != std::string::npos; }));
  }
  std::string Stemctl(const std::string& command) const { return absl::StrCat(kStemctl, " ", command, targets_); }

  std::unique_ptr<InProcessCluster> cluster_;
  std::string targets_;
};

TEST_F(StemctlOutputTest, TailEndsWithItsReader) {
  Start();
  Serve("one");
  // Nothing more is asked of the node: no write would tell.
  const Ended ended = Shell(absl::StrCat(Stemctl("tail --json -"), " | head -1; exit ${PIPESTATUS[0]}"));
  EXPECT_EQ(ended.code, 1);
  EXPECT_THAT(ended.out, HasSubstr("\"request\":\"one\""));
}

TEST_F(StemctlOutputTest, AFullDiskIsAFailure) {
  Start();
  Serve("one");
  const Ended file = Shell(Stemctl("tail --once --json /dev/full"));
  EXPECT_EQ(file.code, 1);
  EXPECT_THAT(file.out, HasSubstr("cannot write /dev/full: No space left on device"));
  for (const char* const command : {"tail --once", "status", "top --once", "diagnose", "explain --request one"}) {
    const Ended ended = Shell(absl::StrCat(Stemctl(command), " > /dev/full"));
    EXPECT_EQ(ended.code, 1) << command;
    EXPECT_THAT(ended.out, HasSubstr("cannot write standard output: No space left on device")) << command;
  }
}

TEST_F(StemctlOutputTest, WithNobodyToAskTheCommandWasAskedWrongly) {
  for (const char* const command : {"status", "top", "top --once", "diagnose", "tail --once", "explain --request one", "drain node-1", "quota a --dram 1GiB"}) {
    const Ended ended = Shell(absl::StrCat(kStemctl, " ", command, " < /dev/null"));
    EXPECT_EQ(ended.code, 2) << command;
    EXPECT_THAT(ended.out, HasSubstr("nobody to ask")) << command;
  }
}

TEST_F(StemctlOutputTest, EveryCommandWritesJsonThatParses) {
  Start(2);
  Serve("007");
  for (const char* const command : {"status", "top", "diagnose", "explain --request 007", "tail --once --recent 1 --node node-0", "drain node-1",
                                    "drain node-1 --resume", "quota nobody --dram 1GiB"}) {
    const Ended ended = Shell(absl::StrCat(Stemctl(command), " --json - 2>/dev/null"));
    EXPECT_FALSE(nlohmann::json::parse(ended.out, nullptr, false).is_discarded()) << command << ": " << ended.out;
  }
}

TEST_F(StemctlOutputTest, StatusOfADirectoryShowsItsNodesByName) {
  Start(2);
  const Ended ended = Shell(Stemctl("status"));
  EXPECT_EQ(ended.code, 0) << ended.out;
  EXPECT_THAT(ended.out, AllOf(HasSubstr("node-0"), HasSubstr("node-1"), HasSubstr("live")));
  EXPECT_EQ(Shell(Stemctl("drain node-1")).code, 0);
  EXPECT_TRUE(Eventually([&] {
    const Ended status = Shell(Stemctl("status")), top = Shell(Stemctl("top --once")), diagnose = Shell(Stemctl("diagnose"));
    return status.out.find("draining") != status.out.npos && top.out.find("draining") != top.out.npos &&
           diagnose.out.find("node node-1 drains") != diagnose.out.npos;
  }));
  cluster_->StopNode(1);
  const Ended down = Shell(Stemctl("status"));
  EXPECT_EQ(down.code, 1);
  EXPECT_THAT(down.out, HasSubstr("node node-1 does not answer"));
}

// `top` in a terminal of its own, with a directory that never answers.
class TopTerminalTest : public ::testing::Test {
 protected:
  void Open() {
    winsize size = {.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::openpty(&master_, &slave_, nullptr, nullptr, &size), 0);
    pid_ = ::fork();
    ASSERT_GE(pid_, 0);
    if (pid_ == 0) {
      ::close(master_);
      if (::login_tty(::dup(slave_)) != 0) ::_exit(126);
      ::setenv("TERM", "xterm", 1);
      ::execl(kStemctl, kStemctl, "top", "--directory", frozen_.address().c_str(), nullptr);
      ::_exit(127);
    }
    ASSERT_TRUE(ReadUntil("q quit"));
    EXPECT_FALSE(Echoes()) << "the screen has it";
  }
  ~TopTerminalTest() override {
    if (master_ >= 0) ::close(master_);
    if (slave_ >= 0) ::close(slave_);
  }

  bool ReadUntil(const std::string& what) {
    return Eventually([&] {
      pollfd readable = {.fd = master_, .events = POLLIN, .revents = 0};
      std::array<char, 4096> buffer;
      if (::poll(&readable, 1, 0) == 1) {
        const ssize_t read = ::read(master_, buffer.data(), buffer.size());
        if (read > 0) seen_.append(buffer.data(), static_cast<size_t>(read));
      }
      return seen_.find(what) != seen_.npos;
    });
  }
  bool Echoes() const {
    termios state = {};
    EXPECT_EQ(::tcgetattr(slave_, &state), 0);
    return (state.c_lflag & ECHO) != 0 && (state.c_lflag & ICANON) != 0;
  }
  int Await() {
    int status = 0;
    EXPECT_TRUE(Eventually([&] {
      ReadUntil("");  // what it writes at its end would else fill the terminal
      return ::waitpid(pid_, &status, WNOHANG) == pid_;
    }));
    return status;
  }

  FrozenServer frozen_;
  int master_ = -1, slave_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

TEST_F(TopTerminalTest, KeysAreHeardWhileADirectoryDoesNotAnswer) {
  Open();
  EXPECT_THAT(seen_, HasSubstr("asking the cluster")) << "it is shown before anybody answered";
  ASSERT_EQ(::write(master_, "q", 1), 1);
  const int status = Await();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(Echoes());
}

TEST_F(TopTerminalTest, ASignalLeavesTheTerminalWhole) {
  Open();
  ASSERT_EQ(::kill(pid_, SIGQUIT), 0);
  const int status = Await();
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGQUIT) << status;
  EXPECT_TRUE(Echoes());
}

}  // namespace
}  // namespace stem
