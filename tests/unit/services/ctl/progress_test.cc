#include "services/ctl/progress.h"

#include <cstdio>
#include <string>

#include <gtest/gtest.h>

namespace stem {
namespace {

TEST(ProgressTest, TextTellsRateHitRateAndTimeLeft) {
  const ProgressState state{250, 1000, 400, 100, absl::Seconds(5)};
  EXPECT_EQ(ProgressText(state, 0), " 25 %  250/1000  50 requests/s  hit rate 0.2500  15 s left");
  EXPECT_EQ(ProgressText(state, 8), "[==>     ]  25 %  250/1000  50 requests/s  hit rate 0.2500  15 s left");
}

TEST(ProgressTest, NothingDoneYetDividesByNothing) {
  EXPECT_EQ(ProgressText({0, 10, 0, 0, {}}, 0), "  0 %  0/10  0 requests/s  hit rate 0.0000  time left unknown");
}

TEST(ProgressTest, RequestsWithoutBlocksHaveNoHitRate) {
  EXPECT_EQ(ProgressText({5, 10, 0, 0, absl::Seconds(10), false}, 0), " 50 %  5/10  0.50 requests/s  10 s left");
}

TEST(ProgressTest, AFileGetsWholeLines) {
  std::FILE* const file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  Progress progress(file);
  EXPECT_EQ(progress.interval(), absl::Seconds(5));
  progress.Show({1, 2, 0, 0, absl::Seconds(1)});
  progress.Show({2, 2, 0, 0, absl::Seconds(1)});
  progress.End();
  std::rewind(file);
  std::string text(4096, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  std::fclose(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_EQ(text.find('\r'), text.npos);
}

}  // namespace
}  // namespace stem
