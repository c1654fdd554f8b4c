// Conversions value by value, and what quantization refuses.
#include "kernels/quantize.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using quant::Codec;
using quant::CodecOf;
using quant::Element;
using ::testing::HasSubstr;

// Every code of a format must be its own nearest code, and every midpoint must go to the even one.
template <Codec kCodec>
void ExpectNearest(uint8_t largest) {
  using Format = CodecOf<kCodec>;
  for (uint8_t code = 0; code < largest; ++code) {
    const float low = Format::Decode(code), high = Format::Decode(code + 1);
    ASSERT_LT(low, high);
    const float middle = (low + high) / 2;
    EXPECT_EQ(Format::Encode(low), code);
    EXPECT_EQ(Format::Encode(-high), 0x80 | (code + 1));
    EXPECT_EQ(Format::Encode(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(Format::Encode(std::nextafter(middle, 0.0F)), code) << middle;
    EXPECT_EQ(Format::Encode(std::nextafter(middle, high)), code + 1) << middle;
  }
  EXPECT_EQ(Format::Decode(largest), Format::kLargest);
  EXPECT_EQ(Format::Encode(Format::kLargest * 1.4F), largest);
}

TEST(QuantMathTest, Fp8CodesAreTheNearest) {
  ExpectNearest<Codec::kFp8E4m3>(0x7E);
  ExpectNearest<Codec::kFp8E5m2>(0x7B);
}

TEST(QuantMathTest, HalvesConvertBothWaysExactlyAndRoundToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const float value = quant::FromFp16(static_cast<uint16_t>(bits));
    ASSERT_EQ(value, static_cast<float>(std::ldexp(bits < 0x400 ? bits : (bits & 0x3FF) + 0x400,
                                                   bits < 0x400 ? -24 : static_cast<int>(bits >> 10) - 25)));
    ASSERT_EQ(quant::ToFp16(value), bits);
    if (bits == 0x7BFF) break;
    const float middle = (value + quant::FromFp16(static_cast<uint16_t>(bits + 1))) / 2;
    ASSERT_EQ(quant::ToFp16(middle), bits + bits % 2) << middle;
  }
  EXPECT_EQ(quant::ToFp16(65520.0F), 0x7C00);
  EXPECT_EQ(quant::ToFp16(-65519.0F), 0xFBFF);
  EXPECT_EQ(quant::ToFp16(-INFINITY), 0xFC00);
  EXPECT_EQ(quant::ToFp16(NAN) & 0x7FFF, 0x7E00);
  EXPECT_TRUE(std::isnan(quant::FromFp16(0x7E00)) && std::isinf(quant::FromFp16(0xFC00)));
  EXPECT_EQ(quant::ToBf16(quant::Float(0x3F808000)), 0x3F80);  // a tie goes to the even one
  EXPECT_EQ(quant::ToBf16(quant::Float(0x3F818000)), 0x3F82);
  EXPECT_EQ(quant::ToBf16(quant::Float(0x7F7FFFFF)), 0x7F80);
  EXPECT_TRUE(std::isnan(quant::FromBf16(quant::ToBf16(quant::Float(0x7F800001)))));
}

TEST(QuantizeTest, BlocksHaveTheBytesThatTheQuantizedLayoutSays) {
  KvLayout layout = {.layers = 32, .kv_heads = 8, .head_dim = 128, .value_dim = 64, .dtype = KvDtype::kBf16};
  const BlockShape shape = *ShapeOf(layout, 8, PageOrder::kNhd, 32, 16);
  layout.scales = ScaleScheme::kPerTokenHead;
  layout.dtype = KvDtype::kInt8;
  EXPECT_EQ(QuantizedBytes(shape, {.codec = Codec::kInt8}), layout.block_bytes(32));
  layout.dtype = KvDtype::kInt4;
  EXPECT_EQ(QuantizedBytes(shape, {.codec = Codec::kInt4}), layout.block_bytes(32));
  // 32 layers of 8 heads' 192 channels: codes of 32 tokens, and one scale.
  EXPECT_EQ(QuantizedBytes(shape, {.codec = Codec::kFp8E4m3, .axis = ScaleAxis::kChannel}), 32u * 8 * 192 * (32 + 4));
}

class QuantizeRefusalTest : public ::testing::Test {
 protected:
  void ExpectRefused(const std::string& message) {
    const absl::Status status = CheckQuantization(shape_, quantization_);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  BlockShape shape_ = {PageOrder::kNhd, 16, 16, 2, 64, 64, 0, 1};
  Quantization quantization_;
};

TEST_F(QuantizeRefusalTest, RowsThatCannotBeQuantized) {
  shape_.key_bytes = 63;
  ExpectRefused("rows of 63 bytes; an element has 2");
  shape_.key_bytes = 62;
  quantization_.codec = Codec::kInt4;
  ExpectRefused("rows of 31 elements; int4 packs two in a byte");
  shape_.key_bytes = 4098;
  ExpectRefused("rows of 2049 elements; at most 2048");
  shape_.key_bytes = 4096;
  shape_.heads = 9;
  quantization_.axis = ScaleAxis::kChannel;
  ExpectRefused("18432 channels with a scale each; at most 16384");
  shape_.layer_count = 0;
  ExpectRefused("layer_count is 0");
  shape_ = {PageOrder::kOpaque, 16, 16, 1, 4096, 0, 0, 1};
  ExpectRefused("opaque pages have no elements");
}

TEST_F(QuantizeRefusalTest, PagesThatAreNotAligned) {
  std::vector<std::byte> memory(8192);
  std::vector<std::byte> block(QuantizedBytes(shape_, quantization_));
  std::vector<LayerPages> layers = {{memory.data() + 1, memory.data() + 2048 + 2}};
  PagedCache cache = {layers, 2048, 1};
  const std::vector<uint32_t> pages = {0};
  const std::vector<BlockDestination> blocks = {{pages, block}};
  EXPECT_THAT(GatherQuantized(shape_, cache, quantization_, blocks).message(), HasSubstr("not aligned to the element's 2"));
  layers[0].keys -= 1;
  EXPECT_TRUE(GatherQuantized(shape_, cache, quantization_, blocks).ok());
  cache.page_stride_bytes = 2049;
  EXPECT_THAT(GatherQuantized(shape_, cache, quantization_, blocks).message(), HasSubstr("page_stride_bytes is 2049"));
  cache.page_stride_bytes = 4094;
  cache.row_stride_bytes[0] = 65;
  EXPECT_THAT(GatherQuantized(shape_, cache, quantization_, blocks).message(), HasSubstr("row_stride_bytes is 65"));
}

TEST_F(QuantizeRefusalTest, BlocksOfAnotherSizeAndSlices) {
  std::vector<std::byte> memory(8192);
  std::vector<std::byte> block(QuantizedBytes(shape_, quantization_) + 1);
  const std::vector<LayerPages> layers = {{memory.data(), memory.data() + 4096}};
  const PagedCache cache = {layers, 2048, 1};
  const std::vector<uint32_t> pages = {0};
  std::vector<BlockDestination> blocks = {{pages, block}};
  EXPECT_THAT(GatherQuantized(shape_, cache, quantization_, blocks).message(), HasSubstr("its shape needs 2304"));
  blocks[0].block = blocks[0].block.first(2304);
  EXPECT_TRUE(GatherQuantized(shape_, cache, quantization_, blocks).ok());
  shape_.slice.count = 1;
  EXPECT_THAT(GatherQuantized(shape_, cache, quantization_, blocks).message(), HasSubstr("1 of 2 heads; it takes all"));
}

TEST_F(QuantizeRefusalTest, RowsThatAreNotFiniteComeBackAsNan) {
  std::vector<float> memory(2 * 16 * 64, 1.0F);
  shape_.key_bytes = shape_.value_bytes = 256;
  quantization_.element = Element::kFp32;
  memory[3] = INFINITY;              // head 0 of token 0
  memory[2 * 64 + 5] = NAN;          // head 0 of token 1
  std::fill_n(&memory[64], 64, 1e-35F);  // head 1 of token 0: below 2^-100
  const auto bytes = std::as_writable_bytes(std::span(memory));
  const LayerPages pages[1] = {{bytes.data(), bytes.data()}};
  const PagedCache cache = {pages, bytes.size(), 1};
  std::vector<std::byte> block(QuantizedBytes(shape_, quantization_));
  const uint32_t ids[1] = {0};
  const BlockDestination destination[1] = {{ids, block}};
  ASSERT_TRUE(GatherQuantized(shape_, cache, quantization_, destination).ok());
  const BlockSource source[1] = {{ids, block}};
  ASSERT_TRUE(ScatterQuantized(shape_, cache, quantization_, source).ok());
  EXPECT_TRUE(std::isnan(memory[0]) && std::isnan(memory[63]) && std::isnan(memory[2 * 64]));
  EXPECT_EQ(memory[64], 0);
  EXPECT_EQ(memory[3 * 64], 1);
}

}  // namespace
}  // namespace stem
