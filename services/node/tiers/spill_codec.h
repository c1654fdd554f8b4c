// Payloads of namespaces that let their spilled blocks be kept as 8-bit codes: to the bytes of a record and back. Lossy. The same bits on every
// machine; what comes back and is encoded once more may differ from it by one more code, and never again after that.
// Source: proto/FORMAT.md, "Encoded spill records".
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "kernels/quantize.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "services/node/records/encoded_spills.h"
#include "storage/block_meta.h"

namespace stem {

// Of values of one type in runs of one length. A value; threads: any.
class SpillCodec {
 public:
  // What `spec` asks for; nullopt = records are payloads as they are.
  static std::optional<SpillCodec> Of(const NamespaceSpec& spec);
  // What a record says of itself (BlockMeta::encoding above 0). Errors: DataLoss (this build knows no such encoding).
  static absl::StatusOr<SpillCodec> OfRecord(uint16_t encoding);

  // Whether what a restart finds on the SSD can be a record of a namespace: codes only where it asks for codes, and no more than its blocks are.
  static bool MayBeOf(const BlockMeta& record, const NamespaceSpec& spec);

  uint16_t encoding() const;

  // Bytes of the record of a payload, which has whole runs, and of the payload of a record. Errors: DataLoss (no whole runs).
  uint64_t RecordBytes(uint64_t payload_bytes) const { return payload_bytes / payload_run_bytes() * record_run_bytes(); }
  absl::StatusOr<uint64_t> PayloadBytes(uint64_t record_bytes) const;
  bool HasWholeRuns(uint64_t payload_bytes) const { return payload_bytes % payload_run_bytes() == 0; }

  // `record`: RecordBytes(payload.size()) of them. False: a value is not finite, so that its whole run would be lost; keep the payload.
  bool Encode(std::span<const std::byte> payload, std::span<std::byte> record) const;
  // `payload`: PayloadBytes(record.size()) of them.
  void Decode(std::span<const std::byte> record, std::span<std::byte> payload) const;

  // Of `decoded` against `payload`. Slow: for samples.
  SpillError Compare(std::span<const std::byte> payload, std::span<const std::byte> decoded) const;

 private:
  SpillCodec(quant::Element element, SpillEncoding codes, uint32_t run_elements) : element_(element), codes_(codes), run_elements_(run_elements) {}

  uint64_t element_bytes() const { return element_ == quant::Element::kFp32 ? 4 : 2; }
  uint64_t payload_run_bytes() const { return run_elements_ * element_bytes(); }
  uint64_t record_run_bytes() const { return run_elements_ + sizeof(float); }
  BlockShape ShapeOf(uint64_t payload_bytes) const;
  Quantization quantization() const {
    return {.element = element_, .codec = codes_ == SpillEncoding::kInt8 ? quant::Codec::kInt8 : quant::Codec::kFp8E4m3, .axis = ScaleAxis::kToken};
  }

  quant::Element element_;
  SpillEncoding codes_;    // not kExact
  uint32_t run_elements_;  // with one scale
};

}  // namespace stem
