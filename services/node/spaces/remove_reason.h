// Why a block left, as messages have it.
#pragma once

#include "stemcache/v1/directory.pb.h"
#include "storage/pool/block_pool.h"

namespace stem {

inline stemcache::v1::RemoveReason ToMessage(GoneReason reason) {
  switch (reason) {
    case GoneReason::kNone: return stemcache::v1::REMOVE_REASON_UNSPECIFIED;
    case GoneReason::kEvicted: return stemcache::v1::REMOVE_REASON_EVICTED;
    case GoneReason::kSpillRejected: return stemcache::v1::REMOVE_REASON_SPILL_REJECTED;
    case GoneReason::kIntegrity: return stemcache::v1::REMOVE_REASON_INTEGRITY;
    case GoneReason::kWithdrawn: return stemcache::v1::REMOVE_REASON_WITHDRAWN;
  }
  return stemcache::v1::REMOVE_REASON_UNSPECIFIED;
}

}  // namespace stem
