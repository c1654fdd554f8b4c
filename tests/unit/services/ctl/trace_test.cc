#include "services/ctl/trace.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kGood[] = R"({"timestamp": 5, "input_length": 1025, "output_length": 7, "hash_ids": [0, 14, 15]})";

class TraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "stem-trace-XXXXXX").string();
    const int fd = ::mkstemp(name.data());
    ASSERT_GE(fd, 0);
    ::close(fd);
    path_ = name;
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::unique_ptr<TraceReader> Open(const std::string& text, TraceFormat format = TraceFormat::kMooncake) {
    std::ofstream(path_) << text;
    auto reader = TraceReader::Open(path_, {format, std::nullopt});
    EXPECT_TRUE(reader.ok()) << reader.status();
    return reader.ok() ? *std::move(reader) : nullptr;
  }

  // The error of the first line of `text`, which must be one line itself.
  std::string ErrorOf(const std::string& text, TraceFormat format = TraceFormat::kMooncake) {
    auto reader = Open(text, format);
    if (reader == nullptr) return "";
    TraceRequest request;
    const auto more = reader->Next(&request);
    EXPECT_EQ(more.status().code(), absl::StatusCode::kDataLoss) << text;
    EXPECT_THAT(std::string(more.status().message()), Not(HasSubstr("\n")));
    return std::string(more.status().message());
  }

  std::string path_;
};

TEST_F(TraceTest, LinesBecomeRequestsInOrder) {
  const auto reader = Open(std::string(kGood) + "\n" + kGood);  // the last line may lack its end
  TraceRequest request;
  ASSERT_TRUE(*reader->Next(&request));
  EXPECT_EQ(request.line, 1u);
  EXPECT_EQ(request.timestamp_ms, 5u);
  EXPECT_EQ(request.input_tokens, 1025u);
  EXPECT_EQ(request.output_tokens, 7u);
  EXPECT_THAT(request.hash_ids, ElementsAre(0, 14, 15));
  EXPECT_FALSE(request.session.has_value());
  ASSERT_TRUE(*reader->Next(&request));
  EXPECT_EQ(request.line, 2u);
  EXPECT_FALSE(*reader->Next(&request));
  EXPECT_FALSE(*reader->Next(&request));
}

TEST_F(TraceTest, BailianLinesBecomeRequestsOfTheirConversation) {
  const auto reader = Open(
      R"({"chat_id": 7, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 20, "output_length": 9, "type": "text", "turn": 1, "hash_ids": [1, 2]})"
      "\n"
      R"({"chat_id": 9, "parent_chat_id": 7, "timestamp": 61.114, "input_length": 33, "output_length": 1, "type": "text", "turn": 2, "hash_ids": [1, 5]})"
      "\n"
      R"({"chat_id": 12, "parent_chat_id": 9, "timestamp": 62, "input_length": 16, "output_length": 1, "type": "text", "turn": 3, "hash_ids": [1]})",
      TraceFormat::kBailian);
  EXPECT_EQ(reader->block_tokens(), 16u);
  TraceRequest request;
  ASSERT_TRUE(*reader->Next(&request));
  EXPECT_EQ(request.timestamp_ms, 500u);
  EXPECT_EQ(request.session, 7u);
  EXPECT_EQ(request.turn, 0u);
  ASSERT_TRUE(*reader->Next(&request)) << "a partial block may be left out";
  EXPECT_EQ(request.timestamp_ms, 61'114u);
  EXPECT_EQ(request.session, 7u) << "what its parent belongs to";
  EXPECT_EQ(request.turn, 1u);
  ASSERT_TRUE(*reader->Next(&request));
  EXPECT_EQ(request.session, 7u);
  EXPECT_EQ(request.hash_ids.size(), 1u);
}

TEST_F(TraceTest, WrongBailianLinesAreNamed) {
  const auto error = [&](const std::string& fields) {
    return ErrorOf("{" + fields + R"("input_length": 16, "output_length": 1, "hash_ids": [1]})", TraceFormat::kBailian);
  };
  EXPECT_THAT(error(R"("chat_id": 1, "parent_chat_id": -1, "turn": 1, "timestamp": -1, )"), HasSubstr("seconds in 0.."));
  EXPECT_THAT(error(R"("chat_id": 1, "turn": 1, "timestamp": 1, )"), HasSubstr("parent_chat_id"));
  EXPECT_THAT(error(R"("parent_chat_id": -1, "turn": 1, "timestamp": 1, )"), HasSubstr("chat_id"));
}

TEST_F(TraceTest, TruncatedLineIsNamed) {
  const std::string text = std::string(kGood) + "\n" + std::string(kGood).substr(0, 40);
  const auto reader = Open(text);
  TraceRequest request;
  ASSERT_TRUE(*reader->Next(&request));
  const auto more = reader->Next(&request);
  EXPECT_THAT(std::string(more.status().message()),
              AllOf(HasSubstr(path_ + ":2:"), HasSubstr("ends in the middle"), HasSubstr("a right one is {")));
  EXPECT_FALSE(*reader->Next(&request));  // at its end after an error
}

TEST_F(TraceTest, WrongValuesAreNamedWithWhatIsRight) {
  EXPECT_THAT(ErrorOf("[1]"), HasSubstr("array"));
  EXPECT_THAT(ErrorOf("{\"a\":}"), HasSubstr("byte 6"));
  EXPECT_THAT(ErrorOf("\n"), HasSubstr("after 0 bytes"));
  EXPECT_THAT(ErrorOf(R"({"input_length": 1, "output_length": 0, "hash_ids": [0]})"), HasSubstr("no \"timestamp\""));
  EXPECT_THAT(ErrorOf(R"({"timestamp": -1, "input_length": 1, "output_length": 0, "hash_ids": [0]})"),
              AllOf(HasSubstr("-1"), HasSubstr("0..")));
  EXPECT_THAT(ErrorOf(R"({"timestamp": 0, "input_length": 0, "output_length": 0, "hash_ids": []})"), HasSubstr("1.."));
  EXPECT_THAT(ErrorOf(R"({"timestamp": 0, "input_length": 513, "output_length": 0, "hash_ids": [0]})"),
              AllOf(HasSubstr("has 1 hash_ids"), HasSubstr("make 2")));
  EXPECT_THAT(ErrorOf(R"({"timestamp": 0, "input_length": 5, "output_length": 0, "hash_ids": ["x"]})"),
              HasSubstr("\"x\""));
  EXPECT_THAT(ErrorOf(R"({"timestamp": 0, "input_length": 5, "output_length": 0, "hash_ids": 5})"), HasSubstr("array"));
  EXPECT_THAT(ErrorOf(R"({"timestamp": 0, "input_length": 4000000000, "output_length": 0, "hash_ids": [0]})"),
              HasSubstr("at most 65536"));
}

TEST_F(TraceTest, TimeThatFallsIsRefused) {
  const auto reader =
      Open(std::string(kGood) + "\n" + R"({"timestamp":4,"input_length":1,"output_length":0,"hash_ids":[0]})");
  TraceRequest request;
  ASSERT_TRUE(*reader->Next(&request));
  EXPECT_THAT(std::string(reader->Next(&request).status().message()), HasSubstr("5.."));
}

TEST_F(TraceTest, EndlessLineIsCutOffAtItsLimit) {
  EXPECT_THAT(ErrorOf(std::string(kTraceLineBytesMax + 1, 'x')), HasSubstr("longer than"));
}

TEST_F(TraceTest, StemTraceNeedsItsHeader) {
  std::ofstream(path_) << kGood << "\n";
  const auto wrong = TraceReader::Open(path_, {TraceFormat::kStem, std::nullopt});
  EXPECT_THAT(std::string(wrong.status().message()), AllOf(HasSubstr(":1:"), HasSubstr("--format mooncake")));
  std::ofstream(path_, std::ios::trunc) << "";
  EXPECT_FALSE(TraceReader::Open(path_, {TraceFormat::kStem, std::nullopt}).ok());
}

TEST_F(TraceTest, WrittenStemLinesReadBack) {
  TraceRequest written;
  written.timestamp_ms = 12;
  written.input_tokens = 33;
  written.output_tokens = 4;
  written.session = 77;
  written.turn = 3;
  written.hash_ids = {8, 9, 10};
  std::string text = StemTraceHeader(16);
  AppendStemTraceLine(written, &text);
  const auto reader = Open(text, TraceFormat::kStem);
  EXPECT_EQ(reader->block_tokens(), 16u);
  TraceRequest read;
  ASSERT_TRUE(*reader->Next(&read));
  EXPECT_EQ(read.line, 2u);
  EXPECT_EQ(read.timestamp_ms, 12u);
  EXPECT_EQ(read.session, 77u);
  EXPECT_EQ(read.turn, 3u);
  EXPECT_EQ(read.hash_ids, written.hash_ids);
}

TEST_F(TraceTest, BlockTokensThatContradictTheHeaderAreRefused) {
  std::ofstream(path_) << StemTraceHeader(16);
  const auto wrong = TraceReader::Open(path_, {TraceFormat::kStem, 32});
  EXPECT_THAT(std::string(wrong.status().message()), AllOf(HasSubstr("32"), HasSubstr("16")));
}

TEST_F(TraceTest, MissingFileIsNamed) {
  const auto wrong = TraceReader::Open("/nowhere/trace.jsonl", {});
  EXPECT_THAT(std::string(wrong.status().message()),
              AllOf(HasSubstr("/nowhere/trace.jsonl"), HasSubstr("No such file")));
}

}  // namespace
}  // namespace stem
