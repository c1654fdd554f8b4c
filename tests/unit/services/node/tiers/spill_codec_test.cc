// What a namespace's codes do to its values: bounded, the same every time, and told apart from what is not theirs.
#include "services/node/tiers/spill_codec.h"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"

namespace stem {
namespace {

constexpr uint32_t kRun = 128;
constexpr size_t kRuns = 96;

// 3 layers, 4 tokens, 4 heads of 128 elements.
NamespaceSpec SpecOf(const std::string& kv_dtype, SpillEncoding encoding) {
  NamespaceSpec spec;
  spec.kv_dtype = kv_dtype;
  spec.layout = std::string("nhd");
  spec.block_tokens = 4;
  spec.spill_encoding = encoding;
  spec.parts = {{.layer_count = 3, .head_count = 4, .block_bytes = kRuns * kRun * (kv_dtype == "fp32" ? 4U : 2U)}};
  return spec;
}

class Values {
 public:
  explicit Values(const std::string& kv_dtype) : kv_dtype_(kv_dtype) {}

  float Read(std::span<const std::byte> bytes, size_t i) const {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * size(), size());
    if (kv_dtype_ == "fp32") return quant::Float(bits);
    return kv_dtype_ == "fp16" ? quant::FromFp16(static_cast<uint16_t>(bits)) : quant::FromBf16(static_cast<uint16_t>(bits));
  }
  void Write(std::span<std::byte> bytes, size_t i, float value) const {
    uint32_t bits = quant::Bits(value);
    if (kv_dtype_ == "fp16") bits = quant::ToFp16(value);
    if (kv_dtype_ == "bf16") bits = quant::ToBf16(value);
    std::memcpy(bytes.data() + i * size(), &bits, size());
  }
  // Heads of other sizes, with some values far out.
  std::vector<std::byte> Payload(uint32_t seed) const {
    std::vector<std::byte> payload(kRuns * kRun * size());
    std::mt19937 random(seed);
    std::normal_distribution<float> gaussian(0, 1);
    for (size_t i = 0; i < kRuns * kRun; ++i) {
      const float scale = std::ldexp(1.0F, static_cast<int>(i / kRun % 9) - 4);
      Write(payload, i, gaussian(random) * scale * (random() % 200 == 0 ? 20 : 1));
    }
    return payload;
  }

 private:
  size_t size() const { return kv_dtype_ == "fp32" ? 4 : 2; }
  const std::string kv_dtype_;
};

class SpillCodecTest : public ::testing::TestWithParam<std::tuple<std::string, SpillEncoding>> {
 protected:
  SpillCodecTest() : spec_(SpecOf(std::get<0>(GetParam()), std::get<1>(GetParam()))), codec_(*SpillCodec::Of(spec_)), values_(spec_.kv_dtype) {}

  std::vector<std::byte> Encoded(const std::vector<std::byte>& payload) const {
    std::vector<std::byte> record(codec_.RecordBytes(payload.size()));
    EXPECT_TRUE(codec_.Encode(payload, record));
    return record;
  }
  std::vector<std::byte> Decoded(const std::vector<std::byte>& record) const {
    std::vector<std::byte> payload(*codec_.PayloadBytes(record.size()));
    codec_.Decode(record, payload);
    return payload;
  }
  quant::Codec codec() const { return spec_.spill_encoding == SpillEncoding::kInt8 ? quant::Codec::kInt8 : quant::Codec::kFp8E4m3; }
  // What rounding to the payload's type adds, of a value.
  double rounding() const { return spec_.kv_dtype == "fp32" ? 0 : spec_.kv_dtype == "fp16" ? 0x1p-11 : 0x1p-8; }

  const NamespaceSpec spec_;
  const SpillCodec codec_;
  const Values values_;
};

TEST_P(SpillCodecTest, RecordIsHalfOrAQuarterAndEveryValueWithinItsBound) {
  const std::vector<std::byte> payload = values_.Payload(1);
  const std::vector<std::byte> record = Encoded(payload);
  EXPECT_EQ(record.size(), kRuns * (kRun + 4));
  const std::vector<std::byte> decoded = Decoded(record);
  ASSERT_EQ(decoded.size(), payload.size());
  double error_squares = 0, value_squares = 0, largest_error = 0;
  for (size_t run = 0; run < kRuns; ++run) {
    double largest = 0, error_max = 0;
    for (size_t i = run * kRun; i < (run + 1) * kRun; ++i) largest = std::max<double>(largest, std::abs(values_.Read(payload, i)));
    for (size_t i = run * kRun; i < (run + 1) * kRun; ++i) {
      const double was = values_.Read(payload, i), is = values_.Read(decoded, i), error = std::abs(is - was);
      ASSERT_LE(error, QuantizationErrorMax(codec(), was, largest) * (1 + rounding()) + std::abs(was) * rounding()) << "value " << i;
      error_squares += error * error;
      value_squares += was * was;
      error_max = std::max(error_max, error);
    }
    largest_error = std::max(largest_error, error_max / largest);
  }
  const SpillError measured = codec_.Compare(payload, decoded);
  EXPECT_NEAR(measured.relative(), std::sqrt(error_squares / value_squares), 1e-12);
  EXPECT_DOUBLE_EQ(measured.largest, largest_error);
  EXPECT_GT(measured.relative(), 0.001);
  EXPECT_LT(measured.relative(), 0.03);
  EXPECT_LT(measured.largest, codec() == quant::Codec::kInt8 ? 0.009 : 0.07);
}

TEST_P(SpillCodecTest, EncodedOnceMoreItStaysWithinTwiceTheErrorAndThenStaysTheSame) {
  const std::vector<std::byte> once = Decoded(Encoded(values_.Payload(2)));
  const std::vector<std::byte> twice = Decoded(Encoded(once));
  EXPECT_LE(codec_.Compare(once, twice).relative(), codec_.Compare(values_.Payload(2), once).relative());
  EXPECT_EQ(Decoded(Encoded(twice)), twice);
}

TEST_P(SpillCodecTest, RecordSaysHowItIsRead) {
  const absl::StatusOr<SpillCodec> read = SpillCodec::OfRecord(codec_.encoding());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->encoding(), codec_.encoding());
  const std::vector<std::byte> record = Encoded(values_.Payload(3));
  std::vector<std::byte> payload(*read->PayloadBytes(record.size()));
  read->Decode(record, payload);
  EXPECT_EQ(payload, Decoded(record));
}

TEST_P(SpillCodecTest, PayloadWithoutANumberIsNotEncoded) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<std::byte> payload = values_.Payload(4);
    values_.Write(payload, kRuns * kRun - 1, value);
    std::vector<std::byte> record(codec_.RecordBytes(payload.size()));
    EXPECT_FALSE(codec_.Encode(payload, record));
  }
}

TEST_P(SpillCodecTest, ZeroesComeBackAsZeroes) {
  const std::vector<std::byte> payload(kRuns * kRun * (spec_.kv_dtype == "fp32" ? 4 : 2));
  EXPECT_EQ(Decoded(Encoded(payload)), payload);
  EXPECT_EQ(codec_.Compare(payload, payload).relative(), 0);
}

INSTANTIATE_TEST_SUITE_P(EveryTypeAndCode, SpillCodecTest,
                         ::testing::Combine(::testing::Values("bf16", "fp16", "fp32"),
                                            ::testing::Values(SpillEncoding::kFp8E4m3, SpillEncoding::kInt8)),
                         [](const auto& which) {
                           return std::get<0>(which.param) + "_" + SpillEncodingName(std::get<1>(which.param));
                         });

TEST(SpillRecordEncodingTest, NumbersAreThoseOfTheFormat) {
  EXPECT_FALSE(SpillCodec::Of(SpecOf("bf16", SpillEncoding::kExact)).has_value());
  EXPECT_EQ(SpillCodec::Of(SpecOf("bf16", SpillEncoding::kInt8))->encoding(), 0x0802);
  EXPECT_EQ(SpillCodec::Of(SpecOf("fp16", SpillEncoding::kFp8E4m3))->encoding(), 0x0805);
  EXPECT_EQ(SpillCodec::Of(SpecOf("fp32", SpillEncoding::kInt8))->encoding(), 0x080A);
}

TEST(SpillRecordEncodingTest, WhatNoBuildWritesIsRefused) {
  for (const uint16_t encoding : std::to_array<uint16_t>({0x0800, 0x0803, 0x080E, 0x0002, 0xFFFE})) {
    EXPECT_TRUE(absl::IsDataLoss(SpillCodec::OfRecord(encoding).status())) << encoding;
  }
  EXPECT_TRUE(absl::IsDataLoss(SpillCodec::OfRecord(0x0802)->PayloadBytes(0).status()));
  EXPECT_TRUE(absl::IsDataLoss(SpillCodec::OfRecord(0x0802)->PayloadBytes(131).status()));
}

TEST(SpillRecordEncodingTest, RestartTakesCodesOnlyForNamespacesThatAskForThem) {
  const NamespaceSpec exact = SpecOf("bf16", SpillEncoding::kExact), lossy = SpecOf("bf16", SpillEncoding::kInt8);
  BlockMeta record{.length = kRuns * (kRun + 4), .encoding = 0x0802};
  EXPECT_TRUE(SpillCodec::MayBeOf(record, lossy));
  EXPECT_FALSE(SpillCodec::MayBeOf(record, exact));
  record.length += kRun + 4;
  EXPECT_FALSE(SpillCodec::MayBeOf(record, lossy)) << "larger than its blocks";
  record = {.length = kRuns * kRun * 2};
  EXPECT_TRUE(SpillCodec::MayBeOf(record, exact));
  EXPECT_TRUE(SpillCodec::MayBeOf(record, lossy)) << "kept as it was";
}

}  // namespace
}  // namespace stem
