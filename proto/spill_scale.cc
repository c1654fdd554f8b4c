#include "proto/spill_scale.h"

#include <numeric>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {
namespace {

// `text` says what is wrong and what would be right.
template <typename... Text>
absl::Status Refused(const NamespaceSpec& spec, const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat("spill_encoding is ", SpillEncodingName(spec.spill_encoding), ", but ", text..., ", or spill_encoding exact"));
}

// 0 = not a plain type.
uint32_t ElementBytes(absl::string_view kv_dtype) {
  if (kv_dtype == "fp16" || kv_dtype == "bf16") return 2;
  return kv_dtype == "fp32" ? 4 : 0;
}

// Elements of what `part` has of one token, layer and head: a row of K and one of V, or a latent.
absl::StatusOr<uint64_t> RowElements(const NamespaceSpec& spec, const Part& part, uint32_t element_bytes) {
  if (part.group == GroupKind::kState) {
    return Refused(spec, "part ", part.id, " is a recurrent state, which has no rows of tokens; use parts of group FULL or WINDOW");
  }
  const uint64_t head_rows = uint64_t{part.layer_count} * spec.block_tokens;  // below 2^48; not more than block_bytes, 2^30, below
  if (head_rows > part.block_bytes || part.block_bytes % (head_rows * part.head_count * element_bytes) != 0) {
    return Refused(spec, "part ", part.id, " has ", part.block_bytes, " bytes; it must have whole elements of ", spec.kv_dtype, " in each of ",
                   part.layer_count, " layers of ", spec.block_tokens, " tokens of ", part.head_count, " heads");
  }
  const uint64_t elements = part.block_bytes / (head_rows * part.head_count * element_bytes);
  return elements % 2 == 0 ? elements / 2 : elements;
}

uint32_t LargestShare(uint64_t row) {
  uint32_t share = kSpillScaleElementsMax;
  while (row % share != 0) --share;
  return share;
}

}  // namespace

absl::StatusOr<uint32_t> SpillScaleElements(const NamespaceSpec& spec) {
  const uint32_t element_bytes = ElementBytes(spec.kv_dtype);
  if (element_bytes == 0) {
    return Refused(spec, "part ", spec.parts.front().id, " keeps kv_dtype ", spec.kv_dtype, "; it must be fp16, bf16 or fp32");
  }
  if (spec.layout == "opaque") {
    return Refused(spec, "part ", spec.parts.front().id, " has layout opaque, whose bytes may be anything; name the layout of its elements");
  }
  if (!spec.scale_scheme.empty()) {
    return Refused(spec, "scale_scheme is ", spec.scale_scheme, ", so that there are scales among the elements; it must be empty");
  }
  uint64_t shared = 0;
  for (const Part& part : spec.parts) {
    STEM_ASSIGN(const uint64_t row, RowElements(spec, part, element_bytes));
    shared = std::gcd(shared, row);
    if (LargestShare(shared) < kSpillScaleElementsMin) {
      return Refused(spec, "part ", part.id, " has rows of ", row, " elements, of which no equal share (of all parts alike) has ", kSpillScaleElementsMin, " to ",
                     kSpillScaleElementsMax, "; use rows of a multiple of ", kSpillScaleElementsMin);
    }
  }
  return LargestShare(shared);
}

}  // namespace stem
