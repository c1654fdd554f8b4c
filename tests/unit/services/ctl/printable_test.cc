#include "services/ctl/printable.h"

#include <algorithm>
#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/ctl/requests.h"
#include "services/ctl/top.h"
#include "services/ctl/why.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::testing::HasSubstr;
using ::testing::Not;

// Clears the screen, renames the window, and writes a line of its own.
constexpr char kAttack[] = "\x1b[2J\x1b]0;owned\x07\r\nnode-9: all is well\x7f\xc2\x9b" "31m";

// No byte that a terminal obeys, other than the line ends that are ours.
void ExpectHarmless(const std::string& text, size_t lines) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    EXPECT_TRUE(byte == '\n' || (byte >= 0x20 && byte != 0x7F)) << static_cast<int>(byte) << " at " << i << " of " << text;
    const bool may_be_c1 = byte == 0xC2 && i + 1 < text.size();
    EXPECT_FALSE(may_be_c1 && static_cast<unsigned char>(text[i + 1]) < 0xA0) << text;
  }
  EXPECT_EQ(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')), lines) << text;
}

TEST(Printable, LeavesTextAndReplacesWhatATerminalObeys) {
  EXPECT_EQ(Printable("chatcmpl-7 Grüße 模型 🙂"), "chatcmpl-7 Grüße 模型 🙂");
  EXPECT_EQ(Printable("\x1b[2J\tx\n\x7f"), "?[2J?x??");
  EXPECT_EQ(Printable("a\xc2\x9b" "31m"), "a?31m") << "C1 in UTF-8";
  EXPECT_EQ(Printable("a\x9b" "31m"), "a?31m") << "C1 as a byte";
  EXPECT_EQ(Printable("\xe2\x80\xaelive"), "?live") << "right to left";
  EXPECT_EQ(Printable("\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xe6\xa8"), "?\?\?\?\?") << "no UTF-8: overlong, a surrogate, too large, cut";
  EXPECT_EQ(Printable(""), "");
}

TEST(Printable, FitCutsBetweenCharacters) {
  EXPECT_EQ(Fit("node-1", 6), "node-1");
  EXPECT_EQ(Fit("node-12", 6), "node-~");
  EXPECT_EQ(Fit("模型模型", 3), "模型~");
  EXPECT_EQ(Fit("\x1b\x1b\x1b", 2), "?~");
  EXPECT_EQ(Fit("ab", 1), "~");
  EXPECT_EQ(Fit("ab", 0), "");
}

TEST(Printable, NothingFromEnginesReachesTheTerminal) {
  v1::RequestRecord record;
  for (std::string* const field : {record.mutable_request(), record.mutable_node(), record.mutable_kind(), record.mutable_model(), record.mutable_error()}) {
    *field = kAttack;
  }
  v1::RequestStep& step = *record.add_steps();
  step.set_name(kAttack);
  step.set_peer(kAttack);
  step.set_error(kAttack);
  record.set_skipped(3);
  ExpectHarmless(RecordRow(record), 2);
  ExpectHarmless(RecordToText(record), 2);
  v1::Miss miss;
  miss.set_cause(v1::MISS_CAUSE_INCOMPATIBLE);
  record.mutable_difference()->set_field(kAttack);
  record.mutable_difference()->set_asked(kAttack);
  ExpectHarmless(WhyMissed(record, miss), 0);
  v1::Departure left;
  left.set_node(kAttack);
  left.set_policy(kAttack);
  ExpectHarmless(WhyLeft(left), 0);

  TopView view{.windows = {}, .directory = v1::DirectoryStatusReply(), .nodes = {}, .stems = {}, .silent = {kAttack}};
  v1::HotStemsReply reply;
  reply.add_stems()->set_model(kAttack);
  reply.mutable_stems(0)->set_tenant(kAttack);
  view.stems = MergeStems({{"node-1", &reply}}, SIZE_MAX);
  view.nodes.push_back({{}, absl::UnknownError("not asked")});
  view.nodes[0].status.mutable_address()->set_node(kAttack);
  view.nodes[0].status.set_state(kAttack);
  const std::vector<TopLine> lines = LayOut(view, TopPage::kAll, 0, 0);
  ExpectHarmless(ToText(lines), lines.size());
}

}  // namespace
}  // namespace stem
