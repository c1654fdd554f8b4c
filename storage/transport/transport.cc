#include "storage/transport/transport.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {
namespace {

// std::less orders pointers of different arrays too.
bool Contains(std::span<const std::byte> outer, std::span<const std::byte> inner) {
  const std::less_equal<const std::byte*> at_most;
  return at_most(outer.data(), inner.data()) && at_most(inner.data() + inner.size(), outer.data() + outer.size());
}

absl::Status CheckReadOp(const RemotePeer& peer, size_t index, const ReadOp& op) {
  if (op.destination.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("read op ", index, " has an empty destination; leave it out"));
  }
  if (op.registration == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("read op ", index, " has no registration for its destination"));
  }
  if (!Contains(op.registration->memory(), op.destination)) {
    return absl::OutOfRangeError(absl::StrCat("read op ", index, ": its destination of ", op.destination.size(),
                                              " bytes leaves its registration of ", op.registration->memory().size(),
                                              " bytes"));
  }
  const RemoteRegion* region = peer.Find(op.arena);
  if (region == nullptr) {
    return absl::NotFoundError(absl::StrCat("read op ", index, ": the peer has no arena ", op.arena, "; it has ",
                                            peer.memory().regions.size(), " others"));
  }
  if (op.offset > region->bytes || op.destination.size() > region->bytes - op.offset) {
    return absl::OutOfRangeError(absl::StrCat("read op ", index, ": ", op.destination.size(), " bytes at offset ",
                                              op.offset, " leave arena ", op.arena, " of ", region->bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace

const RemoteRegion* RemotePeer::Find(uint32_t arena) const {
  for (const RemoteRegion& region : memory_.regions) {
    if (region.arena == arena) return &region;
  }
  return nullptr;
}

absl::Status CheckReadOps(const RemotePeer& peer, std::span<const ReadOp> ops) {
  for (size_t i = 0; i < ops.size(); ++i) STEM_TRY(CheckReadOp(peer, i, ops[i]));
  return absl::OkStatus();
}

}  // namespace stem
