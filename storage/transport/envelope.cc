#include "storage/transport/envelope.h"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

static_assert(std::endian::native == std::endian::little, "the layout is copied as it lies in memory");

constexpr uint32_t kMagic = 0x45585453;  // "STXE"
constexpr uint8_t kVersion = 1;
constexpr size_t kHeaderBytes = 8;
constexpr size_t kChecksumBytes = 8;

template <typename T>
T LoadAt(absl::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename T>
void Append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

absl::string_view Name(uint8_t kind) {
  switch (static_cast<EnvelopeKind>(kind)) {
    case EnvelopeKind::kMessageAddress: return "transport address for reads by messages";
    case EnvelopeKind::kMessageRegion: return "region token for reads by messages";
    case EnvelopeKind::kGetAddress: return "transport address for one-sided reads";
    case EnvelopeKind::kGetRegion: return "rkey for one-sided reads";
  }
  return "unknown kind";
}

}  // namespace

std::string Seal(EnvelopeKind kind, absl::string_view payload) {
  STEM_CHECK(!payload.empty() && payload.size() <= kEnvelopePayloadBytesMax);
  std::string sealed;
  sealed.reserve(kHeaderBytes + payload.size() + kChecksumBytes);
  Append(sealed, kMagic);
  Append(sealed, kVersion);
  Append(sealed, static_cast<uint8_t>(kind));
  Append(sealed, static_cast<uint16_t>(payload.size()));
  sealed.append(payload.data(), payload.size());
  Append(sealed, static_cast<uint64_t>(XXH3_64bits(sealed.data(), sealed.size())));
  return sealed;
}

absl::StatusOr<absl::string_view> Unseal(EnvelopeKind kind, absl::string_view sealed) {
  if (sealed.size() < kHeaderBytes + 1 + kChecksumBytes ||
      sealed.size() > kHeaderBytes + kEnvelopePayloadBytesMax + kChecksumBytes) {
    return absl::InvalidArgumentError(absl::StrCat("transport envelope of ", sealed.size(), " bytes; want ",
                                                   kHeaderBytes + 1 + kChecksumBytes, "..",
                                                   kHeaderBytes + kEnvelopePayloadBytesMax + kChecksumBytes));
  }
  if (LoadAt<uint32_t>(sealed, 0) != kMagic) {
    return absl::InvalidArgumentError("transport envelope does not start with STXE");
  }
  const size_t payload_bytes = LoadAt<uint16_t>(sealed, 6);
  if (payload_bytes != sealed.size() - kHeaderBytes - kChecksumBytes) {
    return absl::InvalidArgumentError(absl::StrCat("transport envelope names ", payload_bytes,
                                                   " payload bytes, but holds ",
                                                   sealed.size() - kHeaderBytes - kChecksumBytes));
  }
  const size_t checked_bytes = sealed.size() - kChecksumBytes;
  if (LoadAt<uint64_t>(sealed, checked_bytes) != XXH3_64bits(sealed.data(), checked_bytes)) {
    return absl::InvalidArgumentError("transport envelope is damaged: its checksum does not fit");
  }
  if (const uint8_t version = LoadAt<uint8_t>(sealed, 4); version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("transport envelope of version ", version, "; want ", kVersion));
  }
  if (const uint8_t found = LoadAt<uint8_t>(sealed, 5); found != static_cast<uint8_t>(kind)) {
    return absl::FailedPreconditionError(absl::StrCat("peer sent a ", Name(found), "; this node needs a ",
                                                      Name(static_cast<uint8_t>(kind)),
                                                      " (both must use the same transport settings)"));
  }
  return sealed.substr(kHeaderBytes, payload_bytes);
}

}  // namespace stem
