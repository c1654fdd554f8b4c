#include "services/runtime/lifecycle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <thread>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

TEST(StopSignal, TerminateArrivesAtWaitAndNotAtOtherThreads) {
  StopSignal stop;
  std::thread other([] { kill(getpid(), SIGTERM); });
  EXPECT_EQ(stop.Wait(), "SIGTERM");
  other.join();
}

TEST(StopSignal, InterruptStopsToo) {
  StopSignal stop;
  pthread_kill(pthread_self(), SIGINT);
  EXPECT_EQ(stop.Wait(), "SIGINT");
}

TEST(StopSignal, TimedWaitEndsWithoutASignal) {
  StopSignal stop;
  EXPECT_FALSE(stop.WaitFor(absl::Milliseconds(1)));
  pthread_kill(pthread_self(), SIGTERM);
  EXPECT_TRUE(stop.WaitFor(absl::Hours(1)));
}

TEST(StopSignal, WritingToAClosedPipeIsAnErrorCode) {
  StopSignal stop;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  EXPECT_EQ(write(ends[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  close(ends[1]);
}

TEST(WriteReadyFile, ReplacesAnOldOneWholeAndLeavesNothingElse) {
  const auto dir = std::filesystem::temp_directory_path() / absl::StrCat("stem_lifecycle_", getpid());
  std::filesystem::create_directories(dir);
  const std::string path = dir / "ready.json";
  ASSERT_TRUE(WriteReadyFile(path, "a much longer text than the next").ok());
  ASSERT_TRUE(WriteReadyFile(path, "{\"port\":1}").ok());
  std::ifstream file(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "{\"port\":1}");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir), {}), 1);
  std::filesystem::remove_all(dir);
}

TEST(WriteReadyFile, MissingFolderIsNamed) {
  const absl::Status status = WriteReadyFile("/nonexistent/ready.json", "{}");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("/nonexistent/ready.json"));
}

}  // namespace
}  // namespace stem
