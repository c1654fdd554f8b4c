#include "services/runtime/cluster_secret.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class ClusterSecretTest : public ::testing::Test {
 protected:
  ~ClusterSecretTest() override { std::filesystem::remove(path_); }
  void Write(const std::string& text, mode_t mode) {
    std::ofstream(path_) << text;
    chmod(path_.c_str(), mode);
  }
  const std::string path_ = std::filesystem::temp_directory_path() / absl::StrCat("stem_secret_", getpid());
  std::ostringstream out_;
  Logger log_{{.process = "t", .out = &out_}};
};

TEST_F(ClusterSecretTest, BytesAreTheFileAsItIs) {
  const std::string text = std::string(32, 'k') + "\n";
  Write(text, 0600);
  const auto secret = ClusterSecret::Read(path_, log_);
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(std::string(secret->bytes().begin(), secret->bytes().end()), text);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(ClusterSecretTest, FileThatOthersCanReadIsWarnedAbout) {
  Write(std::string(32, 'k'), 0644);
  EXPECT_TRUE(ClusterSecret::Read(path_, log_).ok());
  EXPECT_THAT(out_.str(), HasSubstr("warn secret_file_readable_by_others"));
}

TEST_F(ClusterSecretTest, WrongSizesAreRefused) {
  Write(std::string(31, 'k'), 0600);
  const auto brief = ClusterSecret::Read(path_, log_);
  EXPECT_EQ(brief.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(brief.status().message()), HasSubstr("has 31 bytes; it must have 32"));
  Write(std::string(kSecretBytesMax + 1, 'k'), 0600);
  EXPECT_EQ(ClusterSecret::Read(path_, log_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ClusterSecret::Read("/nonexistent/secret", log_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ClusterSecret::Read("/tmp", log_).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace stem
