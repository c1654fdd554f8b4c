#include "services/node/tiers/spill_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/spill_scale.h"

namespace stem {
namespace {

quant::Element ElementOf(const NamespaceSpec& spec) {
  if (spec.kv_dtype == "fp32") return quant::Element::kFp32;
  return spec.kv_dtype == "fp16" ? quant::Element::kFp16 : quant::Element::kBf16;
}

template <quant::Element kElement>
SpillError CompareRuns(std::span<const std::byte> payload, std::span<const std::byte> decoded, size_t run_elements) {
  using Format = quant::ElementOf<kElement>;
  using Stored = typename Format::Stored;
  SpillError total;
  for (size_t run = 0; run < payload.size(); run += run_elements * sizeof(Stored)) {
    double error_squares = 0, value_squares = 0, error_max = 0, value_max = 0;
    for (size_t at = run; at < run + run_elements * sizeof(Stored); at += sizeof(Stored)) {
      Stored was, is;
      std::memcpy(&was, payload.data() + at, sizeof(was));
      std::memcpy(&is, decoded.data() + at, sizeof(is));
      const double value = Format::Read(was);
      const double error = Format::Read(is) - value;
      error_squares += error * error;
      value_squares += value * value;
      error_max = std::max(error_max, std::abs(error));
      value_max = std::max(value_max, std::abs(value));
    }
    total.Add({.error_squares = error_squares, .value_squares = value_squares, .largest = value_max > 0 ? error_max / value_max : 0});
  }
  return total;
}

}  // namespace

std::optional<SpillCodec> SpillCodec::Of(const NamespaceSpec& spec) {
  if (spec.spill_encoding == SpillEncoding::kExact) return std::nullopt;
  const absl::StatusOr<uint32_t> run_elements = SpillScaleElements(spec);
  if (!run_elements.ok()) return std::nullopt;  // refused at its registration
  return SpillCodec(ElementOf(spec), spec.spill_encoding, *run_elements);
}

uint16_t SpillCodec::encoding() const {
  return static_cast<uint16_t>(static_cast<uint32_t>(codes_) + 4 * static_cast<uint32_t>(element_) + 16 * run_elements_);
}

absl::StatusOr<SpillCodec> SpillCodec::OfRecord(uint16_t encoding) {
  const uint32_t codes = encoding % 4, element = encoding / 4 % 4, run_elements = encoding / 16;
  if (codes == static_cast<uint32_t>(SpillEncoding::kExact) || codes >= kSpillEncodings || element > static_cast<uint32_t>(quant::Element::kFp32) || run_elements == 0 ||
      run_elements > kRowElementsMax) {
    return absl::DataLossError(absl::StrCat("the record has encoding ", encoding, ", which this build does not know"));
  }
  return SpillCodec(static_cast<quant::Element>(element), static_cast<SpillEncoding>(codes), run_elements);
}

bool SpillCodec::MayBeOf(const BlockMeta& record, const NamespaceSpec& spec) {
  if (record.encoding == 0) return record.length <= spec.block_bytes_max();
  const absl::StatusOr<SpillCodec> codec = OfRecord(record.encoding);
  if (spec.spill_encoding == SpillEncoding::kExact || !codec.ok()) return false;
  const absl::StatusOr<uint64_t> payload_bytes = codec->PayloadBytes(record.length);
  return payload_bytes.ok() && *payload_bytes <= spec.block_bytes_max();
}

absl::StatusOr<uint64_t> SpillCodec::PayloadBytes(uint64_t record_bytes) const {
  if (record_bytes > 0 && record_bytes % record_run_bytes() == 0) return record_bytes / record_run_bytes() * payload_run_bytes();
  return absl::DataLossError(absl::StrCat("the record has ", record_bytes, " bytes, not a multiple of ", record_run_bytes()));
}

// Runs are rows of a latent of one layer: they lie one after the other.
BlockShape SpillCodec::ShapeOf(uint64_t payload_bytes) const {
  const auto runs = static_cast<uint32_t>(payload_bytes / payload_run_bytes());
  return {.order = PageOrder::kLatent, .block_tokens = runs, .page_tokens = runs, .key_bytes = payload_run_bytes(), .layer_count = 1};
}

bool SpillCodec::Encode(std::span<const std::byte> payload, std::span<std::byte> record) const {
  STEM_CHECK(HasWholeRuns(payload.size()) && QuantizeBlock(ShapeOf(payload.size()), quantization(), payload, record).ok());
  for (size_t run = 0; run < record.size(); run += record_run_bytes()) {
    float scale;
    std::memcpy(&scale, record.data() + run + run_elements_, sizeof(scale));
    if (std::isnan(scale)) return false;
  }
  return true;
}

void SpillCodec::Decode(std::span<const std::byte> record, std::span<std::byte> payload) const {
  STEM_CHECK(DequantizeBlock(ShapeOf(payload.size()), quantization(), record, payload).ok());
}

SpillError SpillCodec::Compare(std::span<const std::byte> payload, std::span<const std::byte> decoded) const {
  STEM_CHECK(HasWholeRuns(payload.size()) && payload.size() == decoded.size());
  switch (element_) {
    case quant::Element::kBf16: return CompareRuns<quant::Element::kBf16>(payload, decoded, run_elements_);
    case quant::Element::kFp16: return CompareRuns<quant::Element::kFp16>(payload, decoded, run_elements_);
    case quant::Element::kFp32: break;
  }
  return CompareRuns<quant::Element::kFp32>(payload, decoded, run_elements_);
}

}  // namespace stem
