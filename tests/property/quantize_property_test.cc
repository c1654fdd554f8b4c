// Quantization against float64: error bounds, nearest codes, the same bits on every instruction set, and blocks whose
// bytes lie where proto/FORMAT.md says, on Gaussian and on heavy-tailed values.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quant_index.h"
#include "kernels/quant_isa.h"
#include "kernels/quantize.h"
#include "tests/support/scalar_quantize.h"

namespace stem {
namespace {

using quant::Codec;
using quant::Element;

constexpr uint32_t kSeed = 20261125;
constexpr Codec kCodecs[] = {Codec::kFp8E4m3, Codec::kFp8E5m2, Codec::kInt8, Codec::kInt4};
constexpr Element kElements[] = {Element::kBf16, Element::kFp16, Element::kFp32};

enum class Values { kGaussian, kHeavyTailed };

// Student's t with two degrees of freedom has no variance: outliers a hundred times the typical value.
double Draw(Values values, std::mt19937& random) {
  if (values == Values::kGaussian) return std::normal_distribution<double>(0, 1)(random);
  return std::clamp(std::student_t_distribution<double>(2)(random), -1e4, 1e4);
}

size_t BytesOf(Element element) { return element == Element::kFp32 ? 4 : 2; }

// ---- float64 readings of the formats, apart from quant_math.h
double Fp(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const double mantissa = bits & ((1u << mantissa_bits) - 1);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                         : std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

double ValueAt(const std::byte* row, size_t i, Element element) {
  if (element == Element::kFp32) {
    float value;
    std::memcpy(&value, row + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + 2 * i, 2);
  return element == Element::kBf16 ? Fp(bits, 8, 7) : Fp(bits, 5, 10);
}

double CodeAt(const std::byte* codes, size_t i, Codec codec) {
  const auto byte = static_cast<uint32_t>(codes[codec == Codec::kInt4 ? i / 2 : i]);
  switch (codec) {
    case Codec::kFp8E4m3: return Fp(byte, 4, 3);
    case Codec::kFp8E5m2: return Fp(byte, 5, 2);
    case Codec::kInt8: return static_cast<int8_t>(byte);
    case Codec::kInt4: {
      const uint32_t low = i % 2 == 0 ? byte & 15 : byte >> 4;
      return low >= 8 ? static_cast<double>(low) - 16 : low;
    }
  }
  return 0;
}

void Put(std::byte* row, size_t i, Element element, double value) {
  const auto single = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  if (element == Element::kFp32) std::memcpy(row + 4 * i, &bits, 4);
  if (element == Element::kFp32) return;
  const uint16_t half = element == Element::kBf16 ? static_cast<uint16_t>(bits >> 16) : quant::ToFp16(single);
  std::memcpy(row + 2 * i, &half, 2);
}

// Half a step of an element near `value`: what writing it to a page may add.
double ElementError(Element element, double value) {
  if (element == Element::kFp32) return std::abs(value) * 0x1p-24;
  return element == Element::kBf16 ? std::abs(value) * 0x1p-8 : std::max(std::abs(value) * 0x1p-11, 0x1p-25);
}

struct Paged {
  Paged(const BlockShape& s, uint32_t pages) : shape(s) {
    const uint64_t row = std::max(s.key_bytes, s.value_bytes);
    const uint64_t stride = row * s.page_tokens * s.heads;
    for (uint32_t i = 0; i < 2 * s.layer_count; ++i) planes.emplace_back(stride * pages);
    for (uint32_t i = 0; i < s.layer_count; ++i) {
      layers.push_back({planes[2 * i].data(), s.value_bytes == 0 ? nullptr : planes[2 * i + 1].data()});
    }
    cache = {layers, stride, pages};
  }
  Paged(const Paged&) = delete;

  // The row of a token of the block that lies in `pages`.
  std::byte* Row(const std::vector<uint32_t>& pages, uint32_t layer, int plane, uint32_t token, uint32_t head) {
    const uint64_t row = plane == 0 ? shape.key_bytes : shape.value_bytes;
    const uint64_t t = token % shape.page_tokens;
    const uint64_t at = shape.order == PageOrder::kHnd ? head * shape.page_tokens + t : t * shape.heads + head;
    return &planes[2 * layer + plane][pages[token / shape.page_tokens] * cache.page_stride_bytes + at * row];
  }

  BlockShape shape;
  std::vector<std::vector<std::byte>> planes;
  std::vector<LayerPages> layers;
  PagedCache cache;
};

// Drawing is slow: values come from a table, from a place drawn for each plane.
void Fill(Paged& paged, Element element, Values values, std::mt19937& random) {
  static constexpr size_t kDrawn = 65521;
  static std::vector<double> drawn[2];
  std::vector<double>& table = drawn[values == Values::kGaussian ? 0 : 1];
  while (table.size() < kDrawn) table.push_back(Draw(values, random));
  for (std::vector<std::byte>& plane : paged.planes) {
    const size_t first = random();
    for (size_t i = 0; i < plane.size() / BytesOf(element); ++i) Put(plane.data(), i, element, table[(first + i) % kDrawn]);
  }
}

struct Setting {
  Quantization quantization;
  BlockShape shape;
};

std::vector<Setting> Settings() {
  std::vector<Setting> settings;
  for (const Element element : kElements) {
    for (const Codec codec : kCodecs) {
      for (const ScaleAxis axis : {ScaleAxis::kToken, ScaleAxis::kChannel}) {
        for (const uint32_t elements : {2u, 62u, 64u, 130u, 128u}) {  // below, at and above a warp's pairs
          const uint64_t row = elements * BytesOf(element);
          const PageOrder order = elements % 4 == 0 ? PageOrder::kHnd : PageOrder::kNhd;
          settings.push_back({{element, codec, axis}, {order, 33, 11, 3, row, row, 0, 2}});
        }
        const uint64_t latent = 576 * BytesOf(element);
        settings.push_back({{element, codec, axis}, {PageOrder::kLatent, 16, 16, 1, latent, 0, 0, 1}});
      }
    }
  }
  return settings;
}

// The codes and the scale of a row, read from the block by the words of proto/FORMAT.md.
struct StoredRow {
  const std::byte* codes;
  const std::byte* scales;  // one, or one for each element
};

StoredRow StoredAt(const Setting& s, const std::vector<std::byte>& block, uint32_t layer, int plane, uint32_t token,
                   uint32_t head) {
  const bool by_token = s.quantization.axis == ScaleAxis::kToken;
  const auto plane_of = [&](uint64_t row_bytes) {
    const uint64_t n = row_bytes / BytesOf(s.quantization.element);
    const uint64_t codes = s.quantization.codec == Codec::kInt4 ? n / 2 : n;
    const uint64_t rows = uint64_t{s.shape.block_tokens} * s.shape.heads;
    return std::tuple{n, codes, by_token ? 0 : s.shape.heads * n * 4, rows * (codes + (by_token ? 4 : 0))};
  };
  const auto [key_n, key_codes, key_scales, key_rows] = plane_of(s.shape.key_bytes);
  const auto [n, codes, scales, rows] = plane_of(plane == 0 ? s.shape.key_bytes : s.shape.value_bytes);
  const auto [value_n, value_codes, value_scales, value_rows] = plane_of(s.shape.value_bytes);
  const uint64_t plane_at = layer * (key_scales + key_rows + value_scales + value_rows) +
                            (plane == 0 ? 0 : key_scales + key_rows);
  const std::byte* const row =
      &block[plane_at + scales + (uint64_t{token} * s.shape.heads + head) * (codes + (by_token ? 4 : 0))];
  return {row, by_token ? row + codes : &block[plane_at + head * n * 4]};
}

double ScaleAt(const StoredRow& row, size_t i, ScaleAxis axis) {
  float scale;
  std::memcpy(&scale, row.scales + (axis == ScaleAxis::kToken ? 0 : 4 * i), 4);
  return scale;
}

// The largest magnitude among the values that share a scale with element `i` of a row.
double LargestBeside(const Setting& s, Paged& from, const std::vector<uint32_t>& pages, uint32_t layer, int plane,
                     uint32_t token, uint32_t head, size_t i) {
  const uint64_t n = (plane == 0 ? s.shape.key_bytes : s.shape.value_bytes) / BytesOf(s.quantization.element);
  double largest = 0;
  if (s.quantization.axis == ScaleAxis::kToken) {
    for (size_t j = 0; j < n; ++j) {
      largest = std::max(largest, std::abs(ValueAt(from.Row(pages, layer, plane, token, head), j, s.quantization.element)));
    }
    return largest;
  }
  for (uint32_t t = 0; t < s.shape.block_tokens; ++t) {
    largest = std::max(largest, std::abs(ValueAt(from.Row(pages, layer, plane, t, head), i, s.quantization.element)));
  }
  return largest;
}

void ExpectWithinBounds(const Setting& s, Paged& from, Paged& to, const std::vector<uint32_t>& from_pages,
                        const std::vector<uint32_t>& to_pages, const std::vector<std::byte>& block) {
  const auto [element, codec, axis] = s.quantization;
  for (uint32_t layer = 0; layer < s.shape.layer_count; ++layer) {
    for (int plane = 0; plane < (s.shape.value_bytes == 0 ? 1 : 2); ++plane) {
      const uint64_t n = (plane == 0 ? s.shape.key_bytes : s.shape.value_bytes) / BytesOf(element);
      for (uint32_t head = 0; head < s.shape.heads; ++head) {
        std::vector<double> largest(n);
        for (uint32_t token = 0; token < s.shape.block_tokens; ++token) {
          const StoredRow row = StoredAt(s, block, layer, plane, token, head);
          for (size_t i = 0; i < n && (token == 0 || axis == ScaleAxis::kToken); ++i) {
            const bool same = axis == ScaleAxis::kToken && i > 0;
            largest[i] = same ? largest[0] : LargestBeside(s, from, from_pages, layer, plane, token, head, i);
          }
          for (size_t i = 0; i < n; ++i) {
            const double value = ValueAt(from.Row(from_pages, layer, plane, token, head), i, element);
            const double restored = CodeAt(row.codes, i, codec) * ScaleAt(row, i, axis);
            const double bound = QuantizationErrorMax(codec, value, largest[i]);
            ASSERT_LE(std::abs(restored - value), bound) << value << " of " << largest[i] << " at " << i;
            const double read = ValueAt(to.Row(to_pages, layer, plane, token, head), i, element);
            ASSERT_LE(std::abs(read - restored), ElementError(element, restored) * (1 + 0x1p-12) + 0x1p-140) << restored;
          }
        }
      }
    }
  }
}

std::vector<uint32_t> Shuffled(uint32_t count, uint32_t pages, std::mt19937& random) {
  std::vector<uint32_t> order(pages);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  order.resize(count);
  return order;
}

class QuantizePropertyTest : public ::testing::TestWithParam<Values> {};

TEST_P(QuantizePropertyTest, ValuesComeBackWithinTheStatedBound) {
  std::mt19937 random(kSeed);
  for (const Setting& s : Settings()) {
    SCOPED_TRACE(::testing::Message() << "element " << int(s.quantization.element) << " codec "
                                      << int(s.quantization.codec) << " axis " << int(s.quantization.axis) << " row "
                                      << s.shape.key_bytes);
    Paged from(s.shape, 8), to(s.shape, 9);
    Fill(from, s.quantization.element, GetParam(), random);
    const auto from_pages = Shuffled(s.shape.page_count(), 8, random), to_pages = Shuffled(s.shape.page_count(), 9, random);
    std::vector<std::byte> block(QuantizedBytes(s.shape, s.quantization));
    const std::vector<BlockDestination> destination = {{from_pages, block}};
    absl::Status status = GatherQuantized(s.shape, from.cache, s.quantization, destination);
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<BlockSource> source = {{to_pages, block}};
    status = ScatterQuantized(s.shape, to.cache, s.quantization, source);
    ASSERT_TRUE(status.ok()) << status;
    ExpectWithinBounds(s, from, to, from_pages, to_pages, block);
    if (HasFailure()) return;
  }
}

TEST_P(QuantizePropertyTest, DigestTakenOnTheWayIsThatOfTheQuantizedBlock) {
  std::mt19937 random(kSeed + 1);
  for (const Setting& s : Settings()) {
    Paged from(s.shape, 8), to(s.shape, 8), plain(s.shape, 8);
    Fill(from, s.quantization.element, GetParam(), random);
    const auto pages = Shuffled(s.shape.page_count(), 8, random);
    std::vector<std::byte> block(QuantizedBytes(s.shape, s.quantization)), undigested(block.size());
    std::vector<uint64_t> hashes(ChunkCount(block.size())), expected(hashes.size());
    std::vector<BlockDigest> digests = {{{{{1, 2}}, {{3, 4}}}, hashes}};
    const std::vector<BlockDestination> destination = {{pages, block}}, other = {{pages, undigested}};
    ASSERT_TRUE(GatherQuantized(s.shape, from.cache, s.quantization, destination, digests).ok());
    ASSERT_TRUE(GatherQuantized(s.shape, from.cache, s.quantization, other).ok());
    EXPECT_TRUE(block == undigested);
    EXPECT_EQ(digests[0].digest, Digest(digests[0].name, block, expected));
    EXPECT_EQ(hashes, expected);
    digests[0].digest = 0;
    std::ranges::fill(hashes, 0);
    const std::vector<BlockSource> source = {{pages, block}};
    ASSERT_TRUE(ScatterQuantized(s.shape, to.cache, s.quantization, source, digests).ok());
    ASSERT_TRUE(ScatterQuantized(s.shape, plain.cache, s.quantization, source).ok());
    EXPECT_EQ(hashes, expected);
    EXPECT_TRUE(to.planes == plain.planes);
  }
}

TEST_P(QuantizePropertyTest, CanonicalBlockIsQuantizedAsItsPagesAre) {
  std::mt19937 random(kSeed + 2);
  for (const Setting& s : Settings()) {
    Paged from(s.shape, 4);
    Fill(from, s.quantization.element, GetParam(), random);
    const auto pages = Shuffled(s.shape.page_count(), 4, random);
    std::vector<std::byte> block(s.shape.block_bytes()), restored(block.size());
    std::vector<std::byte> paged(QuantizedBytes(s.shape, s.quantization)), direct(paged.size());
    const std::vector<BlockDestination> destination = {{pages, paged}};
    ASSERT_TRUE(GatherQuantized(s.shape, from.cache, s.quantization, destination).ok());
    ASSERT_TRUE(Gather(s.shape, from.cache, pages, block).ok());
    ASSERT_TRUE(QuantizeBlock(s.shape, s.quantization, block, direct).ok());
    EXPECT_TRUE(direct == paged);
    ASSERT_TRUE(DequantizeBlock(s.shape, s.quantization, direct, restored).ok());
    const std::vector<BlockSource> source = {{pages, paged}};
    ASSERT_TRUE(ScatterQuantized(s.shape, from.cache, s.quantization, source).ok());
    ASSERT_TRUE(Gather(s.shape, from.cache, pages, block).ok());
    EXPECT_TRUE(restored == block);
  }
}

// The plan of a gather or a scatter of one block, run by the reference.
template <typename Block>
void RunReference(const Setting& s, Paged& paged, const std::vector<Block>& blocks) {
  CopyItem items[kBatchBlocksMax];
  const auto plan =
      quantize_internal::PlanQuantized(s.shape, paged.cache, s.quantization, std::span<const Block>(blocks), items);
  ASSERT_TRUE(plan.ok()) << plan.status();
  RunScalar(*plan);
}

TEST_P(QuantizePropertyTest, TwinGivesTheReferencesBits) {
  std::mt19937 random(kSeed + 5);
  for (const Setting& s : Settings()) {
    if (s.shape.key_bytes > 300) continue;  // the reference is slow
    Paged from(s.shape, 5), to(s.shape, 5), reference(s.shape, 5);
    Fill(from, s.quantization.element, GetParam(), random);
    Put(from.planes[0].data(), 3, s.quantization.element, INFINITY);
    const auto pages = Shuffled(s.shape.page_count(), 5, random);
    std::vector<std::byte> block(QuantizedBytes(s.shape, s.quantization)), expected(block.size());
    const std::vector<BlockDestination> destination = {{pages, block}}, other = {{pages, expected}};
    ASSERT_TRUE(GatherQuantized(s.shape, from.cache, s.quantization, destination).ok());
    RunReference(s, from, other);
    ASSERT_TRUE(block == expected) << s.shape.key_bytes;
    const std::vector<BlockSource> source = {{pages, block}};
    ASSERT_TRUE(ScatterQuantized(s.shape, to.cache, s.quantization, source).ok());
    RunReference(s, reference, source);
    ASSERT_TRUE(to.planes == reference.planes) << s.shape.key_bytes;
  }
}

// What the GPU's warps do with rows, one after another: every row of the block once, where the twin has it.
TEST_P(QuantizePropertyTest, GpuRowsMakeTheTwinsBlock) {
  std::mt19937 random(kSeed + 4);
  for (const Setting& s : Settings()) {
    if (s.quantization.axis != ScaleAxis::kToken || s.quantization.codec != Codec::kInt8) continue;
    if (s.quantization.element != Element::kBf16) continue;
    Paged from(s.shape, 8);
    Fill(from, s.quantization.element, GetParam(), random);
    const auto pages = Shuffled(s.shape.page_count(), 8, random);
    std::vector<std::byte> block(QuantizedBytes(s.shape, s.quantization)), twin(block.size());
    const std::vector<BlockDestination> destination = {{pages, twin}};
    ASSERT_TRUE(GatherQuantized(s.shape, from.cache, s.quantization, destination).ok());
    CopyItem items[kBatchBlocksMax];
    const std::vector<BlockDestination> other = {{pages, block}};
    const auto plan = quantize_internal::PlanQuantized(s.shape, from.cache, s.quantization,
                                                       std::span<const BlockDestination>(other), items);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const QuantIndex index = QuantIndex::Of(*plan);
    for (uint32_t row = 0; row < plan->copy.layer_count * index.layer.divisor; ++row) {
      const QuantIndex::Place place = index.Locate(row);
      const LayerPages& layer = plan->copy.layers[place.layer];
      const std::byte* const values = (place.plane == 0 ? layer.keys : layer.values) +
                                      pages[place.table] * plan->copy.page_stride_bytes + place.page_bytes;
      float scale;
      quant::kQuantBaseline.quantize[0][2](values, index.elements[place.plane], &block[place.block_bytes], &scale);
      std::memcpy(&block[place.block_bytes + index.code_bytes[place.plane]], &scale, sizeof(scale));
    }
    EXPECT_TRUE(block == twin) << s.shape.key_bytes;
  }
}

TEST_P(QuantizePropertyTest, EveryInstructionSetGivesTheSameBits) {
  std::mt19937 random(kSeed + 3);
  const quant::QuantIsa* isas[quant::kQuantIsasMax];
  const size_t count = quant::AvailableQuantIsas(isas);
  for (const Element element : kElements) {
    for (const size_t elements : {1u, 2u, 31u, 32u, 33u, 64u, 127u, 128u, 256u, 258u, 576u, 2048u}) {
      std::vector<std::byte> row(4 * elements), back[3];
      for (size_t i = 0; i < elements; ++i) Put(row.data(), i, element, Draw(GetParam(), random));
      if (elements == 33) Put(row.data(), 7, element, INFINITY);
      for (int codec = 0; codec < quant::kCodecs; ++codec) {
        if (codec == static_cast<int>(Codec::kInt4) && elements % 2 != 0) continue;
        const int e = static_cast<int>(element);
        std::vector<std::byte> codes[3];
        float scale[3];
        for (size_t i = 0; i < count; ++i) {
          codes[i].resize(elements);
          back[i].assign(4 * elements, std::byte{});
          isas[i]->quantize[e][codec](row.data(), elements, codes[i].data(), &scale[i]);
          isas[i]->dequantize[e][codec](codes[i].data(), elements, scale[i], back[i].data());
          EXPECT_TRUE(codes[i] == codes[0] && back[i] == back[0] && std::memcmp(&scale[i], &scale[0], 4) == 0)
              << isas[i]->name << " element " << e << " codec " << codec << " of " << elements;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Both, QuantizePropertyTest, ::testing::Values(Values::kGaussian, Values::kHeavyTailed),
                         [](const auto& test) { return test.param == Values::kGaussian ? "Gaussian" : "HeavyTailed"; });

}  // namespace
}  // namespace stem
