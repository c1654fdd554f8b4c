#include "storage/transport/message_format.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

const ReadRequest kRequest{.op = 1, .nonce = 2, .region = 3, .offset = 4, .bytes = 5, .time_left_ms = 6};
const ReadReply kReply{.op = 1, .nonce = 2, .offset = 3, .bytes = 4, .code = absl::StatusCode::kNotFound};

template <typename Bytes>
absl::string_view View(const Bytes& bytes) {
  return {bytes.data(), bytes.size()};
}

TEST(MessageFormat, FieldsComeBack) {
  const auto request = DecodeReadRequest(View(Encode(kRequest)));
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(request->op, 1u);
  EXPECT_EQ(request->nonce, 2u);
  EXPECT_EQ(request->region, 3u);
  EXPECT_EQ(request->offset, 4u);
  EXPECT_EQ(request->bytes, 5u);
  EXPECT_EQ(request->time_left_ms, 6u);
  const auto reply = DecodeReadReply(View(Encode(kReply)));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->op, 1u);
  EXPECT_EQ(reply->nonce, 2u);
  EXPECT_EQ(reply->offset, 3u);
  EXPECT_EQ(reply->bytes, 4u);
  EXPECT_EQ(reply->code, absl::StatusCode::kNotFound);
}

// On the wire between nodes of different builds.
TEST(MessageFormat, LayoutIsFixed) {
  EXPECT_EQ(View(Encode(kRequest)),
            absl::string_view("STRQ\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"
                              "\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\6\0\0\0", 52));
  EXPECT_EQ(View(Encode(kReply)),
            absl::string_view("STRP\5\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0", 40));
}

TEST(MessageFormat, OtherLengthsMagicsAndValuesAreRefused) {
  const ReadRequestBytes request = Encode(kRequest);
  const ReadReplyBytes reply = Encode(kReply);
  for (size_t bytes = 0; bytes < request.size(); ++bytes) {
    EXPECT_FALSE(DecodeReadRequest(View(request).substr(0, bytes)).ok()) << bytes;
  }
  for (size_t bytes = 0; bytes < reply.size(); ++bytes) {
    EXPECT_FALSE(DecodeReadReply(View(reply).substr(0, bytes)).ok()) << bytes;
  }
  EXPECT_FALSE(DecodeReadRequest(View(reply)).ok());
  EXPECT_FALSE(DecodeReadReply(View(request)).ok());
  ReadRequest empty = kRequest;
  empty.bytes = 0;
  EXPECT_FALSE(DecodeReadRequest(View(Encode(empty))).ok());
  ReadReplyBytes unknown_code = reply;
  unknown_code[4] = 17;
  EXPECT_FALSE(DecodeReadReply(View(unknown_code)).ok());
}

}  // namespace
}  // namespace stem
