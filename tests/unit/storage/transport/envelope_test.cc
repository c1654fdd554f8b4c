#include "storage/transport/envelope.h"

#include <gtest/gtest.h>

#include <string>

namespace stem {
namespace {

constexpr EnvelopeKind kKind = EnvelopeKind::kMessageAddress;

TEST(Envelope, ReturnsWhatWasSealed) {
  const std::string payload("\0address\xff", 9);
  const std::string sealed = Seal(kKind, payload);
  EXPECT_EQ(sealed.size(), payload.size() + 16);
  const auto unsealed = Unseal(kKind, sealed);
  ASSERT_TRUE(unsealed.ok());
  EXPECT_EQ(*unsealed, payload);
}

// The layout is on the wire between nodes of different builds.
TEST(Envelope, LayoutIsFixed) {
  EXPECT_EQ(Seal(kKind, "ab"), std::string("STXE\x01\x01\x02\x00"
                                           "ab\x32\x4f\x12\xbe\xfd\x24\xe6\xd2", 18));
}

TEST(Envelope, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::string sealed = Seal(kKind, "worker address");
  for (size_t bytes = 0; bytes < sealed.size(); ++bytes) {
    EXPECT_TRUE(absl::IsInvalidArgument(Unseal(kKind, sealed.substr(0, bytes)).status())) << bytes;
  }
  for (size_t bit = 0; bit < sealed.size() * 8; ++bit) {
    std::string damaged = sealed;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_TRUE(absl::IsInvalidArgument(Unseal(kKind, damaged).status())) << bit;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Unseal(kKind, sealed + "x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Unseal(kKind, std::string(100000, 'x')).status()));
}

TEST(Envelope, AnotherKindIsRefusedByName) {
  const auto unsealed = Unseal(EnvelopeKind::kGetRegion, Seal(kKind, "worker address"));
  EXPECT_TRUE(absl::IsFailedPrecondition(unsealed.status()));
  EXPECT_EQ(unsealed.status().message(),
            "peer sent a transport address for reads by messages; this node needs a rkey for one-sided reads (both "
            "must use the same transport settings)");
}

TEST(Envelope, TheLargestPayloadFits) {
  const std::string payload(kEnvelopePayloadBytesMax, 'x');
  EXPECT_EQ(Unseal(kKind, Seal(kKind, payload)).value(), payload);
}

}  // namespace
}  // namespace stem
