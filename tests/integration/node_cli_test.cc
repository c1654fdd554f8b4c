// stem-node as operators meet it when something is wrong: one line that names the value and what would be right, exit code 2
// for usage and 1 for the rest, never a crash, never a hang.
#include <arpa/inet.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

struct Ended {
  int code = -1;  // 124: it had to be ended
  std::string out;
};

class NodeCliTest : public ::testing::Test {
 protected:
  NodeCliTest() {
    std::ofstream(path("secret")) << std::string(32, 's');
    chmod(path("secret").c_str(), 0600);
  }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  // Flags that would start a node, then `flags`, of which later ones win.
  Ended Run(const std::vector<std::string>& flags) {
    std::vector<std::string> command = {"timeout",  "20",  STEM_NODE,        "--socket", path("n.sock"), "--listen",
                                        "127.0.0.1:0", "--http", "127.0.0.1:0", "--secret-file", path("secret"), "--dram", "1MiB"};
    for (const std::string& flag : flags) {
      const auto same = std::find(command.begin(), command.end(), flag);
      if (same != command.end() && flag.starts_with("--")) command.erase(same, same + 2);
    }
    command.insert(command.end(), flags.begin(), flags.end());
    Ended ended;
    FILE* const pipe = popen(absl::StrCat(absl::StrJoin(command, " "), " 2>&1").c_str(), "r");
    std::array<char, 4096> text;
    while (fgets(text.data(), text.size(), pipe) != nullptr) ended.out += text.data();
    ended.code = WEXITSTATUS(pclose(pipe));
    return ended;
  }
  // The one line that is not log.
  static void ExpectOneLine(const Ended& ended, int code, const std::vector<std::string>& words) {
    EXPECT_EQ(ended.code, code) << ended.out;
    const size_t at = ended.out.find("stem-node: ");
    ASSERT_NE(at, std::string::npos) << ended.out;
    const std::string line = ended.out.substr(at);
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    for (const std::string& word : words) EXPECT_THAT(line, HasSubstr(word));
  }

  TempDirectory directory_;
};

TEST_F(NodeCliTest, BadValueIsNamedWithAGoodOne) {
  ExpectOneLine(Run({"--dram", "12XB"}), 2, {"--dram", "12XB", "512MiB"});
  ExpectOneLine(Run({"--dram", "1KiB"}), 2, {"--dram", "1KiB"});
  ExpectOneLine(Run({"--lease", "soon"}), 2, {"--lease", "soon"});
  ExpectOneLine(Run({"--fetch-threads", "1000"}), 2, {"fetch-threads", "1000"});
  ExpectOneLine(Run({"--group", "chat=root@1GiB"}), 2, {"--group", "root", "chat=1000+1001@4GiB"});
  ExpectOneLine(Run({"--listen", "nowhere"}), 2, {"--listen", "nowhere"});
  ExpectOneLine(Run({"--etcd", "http://127.0.0.1:2379"}), 2, {"--etcd", "http://127.0.0.1:2379", "127.0.0.1:2379"});
  ExpectOneLine(Run({"--etcd", "127.0.0.1:2379", "--etcd-prefix", "mine"}), 2, {"--etcd-prefix", "'mine'", "/stemcache/my-cluster"});
  ExpectOneLine(Run({"--etcd", "127.0.0.1:2379", "--name", "a/b"}), 2, {"--name", "'a/b'"});
  ExpectOneLine(Run({"--log-format", "xml"}), 2, {"--log-format", "xml"});
}

TEST_F(NodeCliTest, UnknownFlagAndUnknownKeyAreNamed) {
  ExpectOneLine(Run({"--drum", "1GiB"}), 2, {"--drum", "--help"});
  std::ofstream(path("c.toml")) << "dram = \"1MiB\"\ndrum = \"2MiB\"\n";
  ExpectOneLine(Run({"--config", path("c.toml")}), 2, {"drum"});
  ExpectOneLine(Run({"--config", path("absent.toml")}), 2, {"absent.toml"});
}

TEST_F(NodeCliTest, ExampleConfigIsGood) {
  const Ended ended = Run({"--config", STEM_SOURCE_DIR "/deploy/config/stem-node.toml.example", "--check-config"});
  EXPECT_EQ(ended.code, 0) << ended.out;
  EXPECT_EQ(ended.out, "ok\n");
}

TEST_F(NodeCliTest, RemoteListenerIsRefusedUnlessAllowed) {
  ExpectOneLine(Run({"--listen", "0.0.0.0:0"}), 2, {"--listen", "0.0.0.0:0", "--insecure-allow-remote"});
  ExpectOneLine(Run({"--kv-events", "tcp://0.0.0.0:5557", "--kv-events-namespace", "f"}), 2,
                {"--kv-events", "0.0.0.0:5557", "--insecure-allow-remote"});
}

TEST_F(NodeCliTest, LaneBelowTheMinimumIsNamedWithItsFigure) {
  const Ended ended = Run({"--lane-min-bytes-per-second", "1TiB"});
  EXPECT_THAT(ended.out, HasSubstr("lane_probed"));
  ExpectOneLine(ended, 1, {"--lane-min-bytes-per-second", "lane tcp/lo: ", " GB/s, host; want at least 1099.51 GB/s"});
}

TEST_F(NodeCliTest, PortInUseIsNamed) {
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(taken, reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  socklen_t size = sizeof(address);
  getsockname(taken, reinterpret_cast<struct sockaddr*>(&address), &size);
  const std::string where = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  ExpectOneLine(Run({"--listen", where}), 1, {where, "in use"});
  ExpectOneLine(Run({"--http", where}), 1, {where});
  close(taken);
}

TEST_F(NodeCliTest, SecretThatIsAbsentOrShortIsNamed) {
  ExpectOneLine(Run({"--secret-file", path("none")}), 1, {path("none")});
  std::ofstream(path("short")) << "abc";
  ExpectOneLine(Run({"--secret-file", path("short")}), 2, {path("short"), "32"});
}

TEST_F(NodeCliTest, MemoryThatIsNotThereIsRefusedWithTheNumbers) {
  ExpectOneLine(Run({"--dram", "32TiB"}), 1, {"35184372088832", "available"});
}

TEST_F(NodeCliTest, SsdDirectoryThatCannotBeMadeIsNamed) {
  std::ofstream(path("file")) << "x";
  ExpectOneLine(Run({"--ssd", "1GiB", "--ssd-dir", path("file/ssd")}), 1, {"--ssd-dir", path("file/ssd")});
}

TEST_F(NodeCliTest, TooLongSocketPathIsRefused) {
  const Ended ended = Run({"--socket", path(std::string(120, 'x'))});
  EXPECT_NE(ended.code, 0);
  EXPECT_NE(ended.code, 124) << "it started";
  EXPECT_THAT(ended.out, HasSubstr("107"));
}

TEST(NodeLimitsTest, GarbageAndOversizedMessagesEndTheCallNotTheNode) {
  InProcessCluster cluster({.nodes = 1});
  // Attach: bytes that are no message.
  const int raw = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string attach = cluster.socket(0) + ".attach";
  std::copy(attach.begin(), attach.end(), address.sun_path);
  ASSERT_EQ(connect(raw, reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
  const std::string garbage(1000, '\xff');
  ASSERT_EQ(send(raw, garbage.data(), garbage.size(), 0), 1000);
  std::array<char, 4096> answer;
  const ssize_t received = recv(raw, answer.data(), answer.size(), 0);
  ASSERT_GT(received, 0);
  v1::AttachReply reply;
  ASSERT_TRUE(reply.ParseFromArray(answer.data(), static_cast<int>(received)));
  EXPECT_EQ(reply.code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(reply.message(), HasSubstr("AttachRequest"));
  close(raw);

  // Session: a stream that does not open, and a message over the limit.
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  const auto stub = v1::Node::NewStub(grpc::CreateCustomChannel("unix:" + cluster.socket(0),
                                                                grpc::InsecureChannelCredentials(), arguments));
  for (const size_t key_bytes : {size_t{16}, size_t{kMessageBytesMax} + 1}) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
    const auto stream = stub->Session(&context);
    v1::ClientMessage message;
    message.set_request_id(1);
    message.set_deadline_us(1000);
    message.mutable_acquire()->set_keys(std::string(key_bytes, 'k'));
    stream->Write(message);
    v1::NodeMessage ignored;
    EXPECT_FALSE(stream->Read(&ignored));
    const grpc::Status status = stream->Finish();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.error_message(), key_bytes == 16 ? HasSubstr("Open") : HasSubstr("larger than max"));
  }
  EXPECT_NE(cluster.Connect(0, TestSpec(4096)), nullptr) << "the node goes on";
}

TEST(NodeLimitsTest, FullDiskCostsHitsAndNothingElse) {
  const TempDirectory directory;
  const std::string disk = directory.path() + "/disk";
  ASSERT_EQ(mkdir(disk.c_str(), 0700), 0);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=300m") != 0) {
    GTEST_SKIP() << "mounting a small file system needs root";
  }
  {
    std::ofstream(directory.path() + "/secret") << std::string(32, 's');
    std::ostringstream lines;
    Logger log({.process = "test", .out = &lines});
    NodeConfig config;
    config.name = "full";
    config.socket = directory.path() + "/n.sock";
    config.listen = config.http = "127.0.0.1:0";
    config.secret_file = directory.path() + "/secret";
    config.dram_bytes = 4 << 20;
    config.ssd_bytes = 1ULL << 40;  // far more than the disk has
    config.ssd_dir = disk;
    const auto node = Node::Start(config, log);
    ASSERT_TRUE(node.ok()) << node.status();
    const auto deadline = [] { return absl::Now() + absl::Seconds(20); };
    const auto client = CacheClient::Connect({.node = "unix://" + config.socket, .space = TestSpec(65536)}, deadline());
    ASSERT_TRUE(client.ok()) << client.status();
    uint32_t committed = 0;
    for (uint32_t chain = 0; chain < 100; ++chain) {  // 100 MiB; the store leaves 256 MiB of the 300 free
      ChainHasher hasher = *(*client)->NewHasher();
      std::vector<BlockKey> keys;
      ASSERT_TRUE(hasher.AppendTokens(std::vector<uint32_t>(16 * 16, chain), keys).ok());
      absl::StatusOr<Reservation> reservation = (*client)->Reserve(keys, {}, deadline());
      ASSERT_TRUE(reservation.ok()) << reservation.status();
      const absl::StatusOr<CommitResult> result = (*client)->Commit(*std::move(reservation), deadline());
      ASSERT_TRUE(result.ok()) << result.status();
      committed += result->committed;
    }
    EXPECT_GT(committed, 1000u) << "publishing goes on in DRAM";
    EXPECT_THAT(lines.str(), HasSubstr("spill_failed"));
  }
  EXPECT_EQ(umount(disk.c_str()), 0);
}

}  // namespace
}  // namespace stem
