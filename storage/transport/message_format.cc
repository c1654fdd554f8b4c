#include "storage/transport/message_format.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

static_assert(std::endian::native == std::endian::little, "the layout is copied as it lies in memory");

constexpr uint32_t kRequestMagic = 0x51525453;  // "STRQ"
constexpr uint32_t kReplyMagic = 0x50525453;    // "STRP"
constexpr uint32_t kCodeMax = static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);

class Writer {
 public:
  explicit Writer(char* at) : at_(at) {}
  template <typename T>
  Writer& Put(T value) {
    std::memcpy(at_, &value, sizeof value);
    at_ += sizeof value;
    return *this;
  }

 private:
  char* at_;
};

class Reader {
 public:
  explicit Reader(const char* at) : at_(at) {}
  template <typename T>
  Reader& Take(T& value) {
    std::memcpy(&value, at_, sizeof value);
    at_ += sizeof value;
    return *this;
  }

 private:
  const char* at_;
};

}  // namespace

ReadRequestBytes Encode(const ReadRequest& request) {
  ReadRequestBytes bytes;
  Writer(bytes.data())
      .Put(kRequestMagic).Put(uint32_t{0}).Put(request.op).Put(request.nonce)
      .Put(request.region).Put(request.offset).Put(request.bytes).Put(request.time_left_ms);
  return bytes;
}

ReadReplyBytes Encode(const ReadReply& reply) {
  ReadReplyBytes bytes;
  Writer(bytes.data())
      .Put(kReplyMagic).Put(static_cast<uint32_t>(reply.code)).Put(reply.op).Put(reply.nonce).Put(reply.offset)
      .Put(reply.bytes);
  return bytes;
}

absl::StatusOr<ReadRequest> DecodeReadRequest(absl::string_view header) {
  if (header.size() != ReadRequestBytes().size()) {
    return absl::InvalidArgumentError(absl::StrCat("read request header of ", header.size(), " bytes; want ",
                                                   ReadRequestBytes().size()));
  }
  uint32_t magic = 0;
  uint32_t code = 0;
  ReadRequest request;
  Reader(header.data())
      .Take(magic).Take(code).Take(request.op).Take(request.nonce)
      .Take(request.region).Take(request.offset).Take(request.bytes).Take(request.time_left_ms);
  if (magic != kRequestMagic || code != 0) return absl::InvalidArgumentError("read request header is not one");
  if (request.bytes == 0) return absl::InvalidArgumentError("read request for 0 bytes; want at least 1");
  return request;
}

absl::StatusOr<ReadReply> DecodeReadReply(absl::string_view header) {
  if (header.size() != ReadReplyBytes().size()) {
    return absl::InvalidArgumentError(absl::StrCat("read reply header of ", header.size(), " bytes; want ",
                                                   ReadReplyBytes().size()));
  }
  uint32_t magic = 0;
  uint32_t code = 0;
  ReadReply reply;
  Reader(header.data()).Take(magic).Take(code).Take(reply.op).Take(reply.nonce).Take(reply.offset).Take(reply.bytes);
  if (magic != kReplyMagic || code > kCodeMax) return absl::InvalidArgumentError("read reply header is not one");
  reply.code = static_cast<absl::StatusCode>(code);
  return reply;
}

}  // namespace stem
