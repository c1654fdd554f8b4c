#include "storage/spill/garbage.h"

namespace stem {

bool WorthCollecting(uint64_t garbage_bytes, uint64_t blob_bytes, double share) {
  return garbage_bytes >= kGarbageSlackBytes &&
         static_cast<double>(garbage_bytes) > share * static_cast<double>(blob_bytes);
}

size_t OldestToCollect(std::span<const BlobFileBytes> files, uint64_t room_bytes) {
  uint64_t moved_bytes = 0;
  uint64_t freed_bytes = 0;
  double best_score = 0;
  size_t best_count = 0;
  size_t fitting_count = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    freed_bytes += files[i].garbage_bytes;
    moved_bytes += files[i].total_bytes - files[i].garbage_bytes;
    if (moved_bytes > room_bytes || (moved_bytes > kMovedBytesMax && i > 0)) break;
    fitting_count = i + 1;
    const double share = static_cast<double>(freed_bytes) / static_cast<double>(freed_bytes + moved_bytes + 1);
    const double score = share * share * static_cast<double>(freed_bytes);  // cheap rounds first, then large ones
    if (score <= best_score || share < kGarbageShareMax / 2) continue;
    best_score = score;
    best_count = i + 1;
  }
  return best_count > 0 ? best_count : fitting_count;
}

}  // namespace stem
