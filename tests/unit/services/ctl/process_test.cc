#include "services/ctl/process.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() : log_(absl::StrCat(::testing::TempDir(), "/process_test.", ::getpid(), ".log")) {}
  ~ProcessTest() override { std::filesystem::remove(log_); }

  ProcessIdentity Start(const std::string& script) {
    auto process = StartDetached({"/bin/sh", "-c", script}, log_);
    EXPECT_TRUE(process.ok()) << process.status();
    return process.ok() ? *process : ProcessIdentity{};
  }

  const std::string log_;
};

TEST_F(ProcessTest, PagesThatWereNotTouchedAreNotEntered) {
  constexpr size_t kBytes = 1 << 20;
  const int file = memfd_create("process-test-pages", 0);
  ASSERT_EQ(ftruncate(file, kBytes), 0);
  char* const pages = static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  ASSERT_NE(pages, MAP_FAILED);
  EXPECT_EQ(UnenteredBytes(getpid(), "process-test-"), kBytes);
  std::memset(pages, 1, kBytes / 2);
  EXPECT_EQ(UnenteredBytes(getpid(), "process-test-"), kBytes / 2);
  EXPECT_EQ(UnenteredBytes(getpid(), "another-"), 0u);
  std::memset(pages, 1, kBytes);
  EXPECT_EQ(UnenteredBytes(getpid(), "process-test-"), 0u);
  munmap(pages, kBytes);
  close(file);
  EXPECT_EQ(UnenteredBytes(1 << 30, "process-test-"), 0u);
}

TEST_F(ProcessTest, StopEndsAProcessOnItsFirstWord) {
  const ProcessIdentity process = Start("exec sleep 600");
  EXPECT_TRUE(IsRunning(process));
  bool killed = true;
  EXPECT_TRUE(Stop(process, absl::Seconds(30), &killed).ok());
  EXPECT_FALSE(killed);
  EXPECT_FALSE(IsRunning(process));
  EXPECT_TRUE(Stop(process, absl::Seconds(30)).ok());  // a second time is no error
}

TEST_F(ProcessTest, OneThatDoesNotListenIsKilled) {
  const ProcessIdentity process = Start("trap '' TERM; echo deaf; while :; do sleep 600; done");
  while (LastLine(log_) != "deaf") ASSERT_FALSE(WaitForEnd(process, absl::Milliseconds(5)));
  bool killed = false;
  EXPECT_TRUE(Stop(process, absl::Milliseconds(20), &killed).ok());
  EXPECT_TRUE(killed);
  EXPECT_FALSE(IsRunning(process));
}

TEST_F(ProcessTest, AnotherProcessUnderTheSameNumberIsNeverSignalled) {
  const ProcessIdentity process = Start("exec sleep 600");
  const ProcessIdentity impostor{process.pid, process.start_ticks - 1};
  EXPECT_FALSE(IsRunning(impostor));
  EXPECT_TRUE(absl::IsNotFound(Signal(impostor, SIGKILL)));
  EXPECT_TRUE(Stop(impostor, absl::ZeroDuration()).ok());
  EXPECT_TRUE(IsRunning(process));
  EXPECT_TRUE(Stop(process, absl::Seconds(30)).ok());
}

TEST_F(ProcessTest, NumberNoneIsNobody) {
  EXPECT_FALSE(IsRunning({}));
  EXPECT_TRUE(absl::IsNotFound(Signal({}, SIGTERM)));
}

TEST_F(ProcessTest, WhatItSaysGoesToItsLog) {
  const ProcessIdentity process = Start("echo out; echo err >&2; echo");
  EXPECT_TRUE(WaitForEnd(process, absl::Seconds(30)));
  EXPECT_EQ(LastLine(log_), "err");
}

TEST_F(ProcessTest, AProcessLeadsASessionOfItsOwn) {
  const ProcessIdentity process = Start("exec sleep 600");
  EXPECT_EQ(::getsid(process.pid), process.pid);
  EXPECT_TRUE(Stop(process, absl::Seconds(30)).ok());
}

TEST_F(ProcessTest, MissingBinaryIsNamed) {
  const auto process = StartDetached({"/nowhere/stem-node"}, log_);
  EXPECT_THAT(std::string(process.status().message()), HasSubstr("/nowhere/stem-node: No such file"));
}

}  // namespace
}  // namespace stem
